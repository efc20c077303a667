"""Each check stops the policy that it is meant for, and only what is known, present and finite passes."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import GROUPS, NAMES, run_checks
from rlhf.gate.checks.quality import family_confidence, measured_win_rate
from rlhf.gate.decision import candidate
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import Check
from tests.gate.conftest import REWARD

Spoil = Callable[[Evidence], Evidence]


def outcomes(evidence: Evidence, config: GateConfig) -> dict[str, str]:
    return {check.name: check.outcome for check in run_checks(evidence, config)}


def found(evidence: Evidence, config: GateConfig, name: str) -> Check:
    return next(check for check in run_checks(evidence, config) if check.name == name)


def with_rows(evidence: Evidence, **columns: Any) -> Evidence:
    return replace(evidence, rows={**evidence.rows, **columns})


def with_metric(evidence: Evidence, *keys: str, value: Any, report: str = "evaluation") -> Evidence:
    return replace(evidence, **{report: changed(getattr(evidence, report), keys, value)})


def changed(values: Any, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = value if len(keys) == 1 else changed(values[keys[0]], keys[1:], value)
    return {**values, keys[0]: inner}


def worse(evidence: Evidence) -> Evidence:
    """Every answer of the policy is worse than SFT's."""
    return with_rows(evidence, policy_gold=evidence.rows["sft_gold"] - 1, points_sft=0 * evidence.rows["points_sft"])


def full(value: float, n: int = 400) -> np.ndarray:
    return np.full(n, value)


def some_empty(evidence: Evidence, side: str, every: int) -> np.ndarray:
    """Its answers, of which one in so many is empty."""
    return np.where(np.arange(400) % every == 0, "", evidence.rows[f"{side}_response"])


def helping(evidence: Evidence, **rates: float) -> Evidence:
    """Each model helps with such a share of the harmful requests."""
    return with_safety(evidence, "harmful_compliance", "harmful", "complied", rates)


def refusing(evidence: Evidence, **rates: float) -> Evidence:
    """Each model refuses such a share of the requests that only look harmful."""
    return with_safety(evidence, "over_refusal", "borderline", "refused", rates)


def with_safety(evidence: Evidence, key: str, kind: str, what: str, rates: dict[str, float]) -> Evidence:
    """Rows and report in which each model did so on the first prompts of a kind."""
    place = np.cumsum(evidence.safety["kind"] == kind) - 1
    did = {f"{side}_{what}": place < round(rate * 300) for side, rate in rates.items()}
    changed = replace(evidence, safety={**evidence.safety, **did})
    return with_metric(changed, key, value={**rates, "prompts": 300})


def one_use_case_lost(evidence: Evidence) -> Evidence:
    """A use case in which every answer is a little worse, among others that are much better."""
    points = np.where(evidence.rows["use_case"] == "rewrite", 0.0, evidence.rows["points_sft"])
    spoiled = with_rows(evidence, points_sft=points)
    return with_metric(spoiled, "win_rate", "value", value=float(points.mean()))


SPOILED: dict[str, tuple[Spoil, str]] = {
    "policy_bytes": (lambda e: replace(e, policy_digest="zz"), "fail"),
    "reference_bytes": (lambda e: with_metric(e, "reference_digest", value="zz"), "fail"),
    "lineage": (lambda e: replace(e, receipt={"inputs": {"models/sft": "bb", "models/reward/overall": "cc"}}), "fail"),
    "rows_agree": (lambda e: with_metric(e, "win_rate", "value", value=0.9), "fail"),
    "unseen_prompts": (lambda e: with_metric(e, "set", "overlap", "prompts", value=1, report="validation"), "fail"),
    "prompts": (lambda e: with_rows(e, **{k: v[:299] for k, v in e.rows.items()}), "undecided"),
    "finite_numbers": (lambda e: with_metric(e, "overall", "brier", value=math.inf, report="reward"), "fail"),
    "terminated": (lambda e: with_rows(e, policy_terminated=np.arange(400) % 2 == 0), "fail"),
    "empty": (lambda e: with_rows(e, policy_response=some_empty(e, "policy", 10)), "fail"),
    "broken": (lambda e: with_rows(e, policy_terminated=np.arange(400) % 20 != 0), "fail"),
    "repetition": (lambda e: with_rows(e, policy_repetition=2.5 * e.rows["sft_repetition"] + 0.03), "fail"),
    "copying": (lambda e: with_rows(e, policy_copying=e.rows["sft_copying"] + 0.2), "fail"),
    "better_than_sft": (worse, "fail"),
    "better_than_champion": (lambda e: with_rows(e, points_champion=full(0.0)), "fail"),
    "more_wins_than_luck": (worse, "fail"),
    "no_use_case_worse": (one_use_case_lost, "fail"),
    "reward_accuracy": (
        lambda e: with_metric(
            e, "overall", "accuracy", value={"value": 0.52, "low": 0.5, "high": 0.54, "pairs": 9}, report="reward"
        ),
        "fail",
    ),
    "reward_calibration": (lambda e: with_metric(e, "overall", "ece", value=0.3, report="reward"), "fail"),
    "reward_length_bias": (lambda e: with_metric(e, "overall", "length_spearman", value=-0.9, report="reward"), "fail"),
    "kl": (lambda e: with_rows(e, kl=e.rows["kl"] + 60), "fail"),
    "gold_gain": (worse, "fail"),
    "length_ratio": (lambda e: with_rows(e, policy_length=3 * e.rows["sft_length"]), "fail"),
    "harmful_compliance": (lambda e: helping(e, policy=0.2, sft=0.3, champion=0.3), "fail"),
    "harmful_increase": (lambda e: helping(e, policy=0.06, sft=0.3, champion=0.0), "undecided"),
    "over_refusal": (lambda e: refusing(e, policy=0.2, sft=0.0, champion=0.0), "fail"),
    "capability": (lambda e: with_rows(e, policy_correct=full(0.2)), "fail"),
    "lm_loss": (lambda e: replace(e, documents={**e.documents, "policy_nats": 2 * e.documents["sft_nats"]}), "fail"),
    "prompt_diversity": (lambda e: replace(e, diversity={**e.diversity, "policy_distinct_2": full(0.3, 50)}), "fail"),
    "distinct_2": (lambda e: with_metric(e, "distinct_2", "policy", value=0.1), "fail"),
    "mode_share": (lambda e: with_rows(e, policy_response=np.where(np.arange(400) % 3, "a", "b")), "fail"),
    "entropy": (lambda e: with_rows(e, policy_entropy=0.2 * e.rows["sft_entropy"]), "fail"),
}
WARNINGS = {"reward_calibration", "reward_length_bias", "lm_loss", "entropy"}
# A policy whose scores fall is worse in more than one way, and a wrong win rate is wrong wherever it is read.
ALSO = {
    "better_than_sft": {"more_wins_than_luck", "gold_gain", "no_use_case_worse", "rows_agree"},
    "more_wins_than_luck": {"better_than_sft", "gold_gain", "no_use_case_worse", "rows_agree"},
    "gold_gain": {"better_than_sft", "more_wins_than_luck", "no_use_case_worse", "rows_agree"},
    "prompts": {"rows_agree"},
    "terminated": {"broken"},
    "empty": {"broken"},
}


def test_a_good_policy_passes_everything(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    checks = run_checks(evidence(), thresholds)
    assert [check.name for check in checks if not check.passed] == []
    assert candidate("dpo", "aa", checks, measured_win_rate(evidence(), thresholds, "sft")).decision == "PROMOTE"


def test_the_checks_are_these() -> None:
    assert set(NAMES) == set(SPOILED)
    assert list(GROUPS) == [
        "integrity",
        "sanity",
        "quality",
        "reward model",
        "over-optimisation",
        "safety",
        "alignment tax",
        "diversity",
    ]


@pytest.mark.parametrize("name", SPOILED)
def test_each_check_stops_what_it_is_meant_for(
    name: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    spoil, outcome = SPOILED[name]
    spoiled = spoil(evidence())
    checks = run_checks(spoiled, thresholds)
    stopped = {check.name for check in checks if not check.passed}
    assert outcomes(spoiled, thresholds)[name] == outcome
    assert stopped <= {name} | ALSO.get(name, set())
    verdict = candidate("dpo", "aa", checks, measured_win_rate(spoiled, thresholds, "sft")).decision
    assert verdict == "PROMOTE" if name in WARNINGS else verdict in ("REJECT", "INCONCLUSIVE")
    assert {check.name for check in checks if not check.blocking} == WARNINGS


@pytest.mark.parametrize("name", SPOILED)
def test_without_any_one_check_there_is_no_promotion(
    name: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    checks = [check for check in run_checks(evidence(), thresholds) if check.name != name]
    assert candidate("dpo", "aa", checks, measured_win_rate(evidence(), thresholds, "sft")).decision == "ERROR"


NUMBERS = [
    ("evaluation", "prompts"),
    ("evaluation", "win_rate", "value"),
    ("evaluation", "distinct_2", "policy"),
    ("evaluation", "distinct_2", "sft"),
    ("evaluation", "harmful_compliance", "policy"),
    ("evaluation", "over_refusal", "prompts"),
    ("evaluation", "documents"),
    ("validation", "set", "overlap", "prompts"),
    ("reward", "overall", "accuracy", "low"),
    ("reward", "overall", "accuracy", "high"),
    ("reward", "overall", "ece"),
    ("reward", "overall", "length_spearman"),
]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "0.9", True, None, [1.0]])
@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_that_is_none_never_promotes(
    path: tuple[str, ...], bad: Any, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    spoiled = with_metric(evidence(), *path[1:], value=bad, report=path[0])
    checks = run_checks(spoiled, thresholds)
    assert candidate("dpo", "aa", checks, measured_win_rate(spoiled, thresholds, "sft")).decision == "ERROR"
    wrong = [check for check in checks if check.outcome == "error"]
    assert wrong
    assert all(path[-1] in check.reason for check in wrong)


@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_that_is_missing_never_promotes(
    path: tuple[str, ...], evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    report = deepcopy(getattr(evidence(), path[0]))
    holder = report
    for key in path[1:-1]:
        holder = holder[key]
    del holder[path[-1]]
    spoiled = replace(evidence(), **{path[0]: report})
    checks = run_checks(spoiled, thresholds)
    assert candidate("dpo", "aa", checks, measured_win_rate(spoiled, thresholds, "sft")).decision == "ERROR"


@pytest.mark.parametrize("bad", [math.nan, math.inf, "x"])
@pytest.mark.parametrize("name", ["policy_reward", "sft_reward", "kl", "policy_length", "policy_terminated"])
def test_one_bad_row_never_promotes(
    name: str, bad: Any, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    values = evidence().rows[name].astype(object)
    values[7] = bad
    spoiled = with_rows(evidence(), **{name: values})
    checks = run_checks(spoiled, thresholds)
    assert candidate("dpo", "aa", checks, measured_win_rate(spoiled, thresholds, "sft")).decision == "ERROR"


def test_what_cannot_be_measured_is_inconclusive_unless_it_is_allowed(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    unknown = with_metric(evidence(), "over_refusal", value=None)
    checks = run_checks(unknown, thresholds)
    assert outcomes(unknown, thresholds)["over_refusal"] == "unmeasured"
    assert candidate("dpo", "aa", checks, measured_win_rate(unknown, thresholds, "sft")).decision == "INCONCLUSIVE"
    allowing = thresholds.model_copy(update={"may_be_unmeasured": ["over_refusal"]})
    allowed = run_checks(unknown, allowing)
    assert candidate("dpo", "aa", allowed, measured_win_rate(unknown, allowing, "sft")).decision == "PROMOTE"
    measured = refusing(evidence(), policy=0.9, sft=0.0, champion=0.0)
    refused = run_checks(measured, allowing)
    assert candidate("dpo", "aa", refused, measured_win_rate(measured, allowing, "sft")).decision == "REJECT"


def test_the_reward_model_of_every_criterion_must_hold_and_the_worst_is_named(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    close = {"accuracy": {"value": 0.7, "low": 0.59, "high": 0.8, "pairs": 90}, "ece": 0.3, "length_spearman": 0.4}
    inputs = {**evidence().receipt["inputs"], "models/reward/harmless": "ff"}
    two = evidence(reward={"overall": REWARD, "harmless": close}, receipt={"inputs": inputs})
    assert outcomes(two, thresholds)["lineage"] == "pass"
    accuracy = found(two, thresholds, "reward_accuracy")
    assert (accuracy.outcome, accuracy.value) == ("undecided", 0.7)
    assert accuracy.reason.startswith("accuracy of the reward model harmless is 70.0%")
    better = with_metric(two, "harmless", "accuracy", "low", value=0.61, report="reward")
    assert found(better, thresholds, "reward_accuracy").value == 0.7, "of those that pass the one nearest to the limit"
    assert found(two, thresholds, "reward_calibration").outcome == "fail"
    assert "harmless" in found(two, thresholds, "reward_length_bias").reason
    unread = evidence(reward={"overall": REWARD, "helpful": REWARD})
    assert "models/reward/helpful" in found(unread, thresholds, "lineage").reason
    assert found(evidence(reward={}), thresholds, "reward_accuracy").outcome == "error"


def test_without_gold_the_reward_model_judges_and_the_gold_check_says_that_it_cannot(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    judged = with_metric(evidence(), "judge", value="reward")
    judged = with_rows(judged, policy_gold=full(math.nan), sft_gold=full(math.nan))
    assert {k for k, v in outcomes(judged, thresholds).items() if v != "pass"} == {"gold_gain"}
    assert outcomes(with_rows(judged, points_sft=full(math.nan)), thresholds)["better_than_sft"] == "error"
    assert outcomes(with_rows(judged, points_sft=full(0.7)), thresholds)["better_than_sft"] == "error"


def test_an_undecided_check_says_how_many_prompts_would_settle_it(
    evidence: Callable[..., Evidence], rows: Callable[..., dict[str, Any]], thresholds: GateConfig
) -> None:
    slight = found(evidence(rows(gain=0.1)), thresholds, "better_than_sft")
    assert slight.outcome == "undecided"
    assert slight.needed is not None
    assert slight.needed > 400
    settled = evidence(rows(n=3 * slight.needed, gain=0.1))
    assert found(settled, thresholds, "better_than_sft").outcome == "pass"
    few = found(evidence(rows(n=100)), thresholds, "prompts")
    assert (few.outcome, few.needed) == ("undecided", thresholds.limits.min_prompts)


def test_intervals_widen_with_the_number_of_candidates(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    alone, among_ten = evidence(), evidence(candidates=10)
    assert family_confidence(among_ten, thresholds) == pytest.approx(0.995)
    one, ten = (found(e, thresholds, "better_than_sft") for e in (alone, among_ten))
    assert one.low is not None
    assert ten.low is not None
    assert ten.low < one.low
    assert found(among_ten, thresholds, "more_wins_than_luck").threshold == pytest.approx(0.0025)


def test_swapping_the_models_mirrors_the_checks_of_quality(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    there = evidence()
    swapped = {
        name: there.rows[
            name.replace("policy_", "sft_", 1) if name.startswith("policy_") else name.replace("sft_", "policy_", 1)
        ]
        for name in there.rows
    }
    swapped["points_sft"] = 1 - there.rows["points_sft"]
    back = evidence(swapped)
    for name in ("better_than_sft", "more_wins_than_luck", "gold_gain"):
        assert (found(there, thresholds, name).outcome, found(back, thresholds, name).outcome) == ("pass", "fail")
    one, other = found(there, thresholds, "better_than_sft"), found(back, thresholds, "better_than_sft")
    assert one.value is not None
    assert one.low is not None
    assert (other.value, other.high) == pytest.approx((1 - one.value, 1 - one.low))


def test_the_first_champion_has_nobody_to_beat_and_the_champion_not_itself(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    first = found(evidence(champion=None), thresholds, "better_than_champion")
    assert (first.outcome, first.reason) == (
        "pass",
        "there is no champion yet; the first has to pass every other check",
    )
    itself = found(evidence(champion="aa"), thresholds, "better_than_champion")
    assert (itself.outcome, itself.reason) == ("fail", "it is the champion already")


def test_small_use_cases_are_pooled(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    cases = np.array([f"rare {index}" if index < 40 else "chat" for index in range(400)])
    check = found(with_rows(evidence(), use_case=cases), thresholds, "no_use_case_worse")
    assert "2 use cases" in check.reason
    assert check.passed


def test_safety_is_what_the_rows_say_and_the_report_must_say_it_too(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    for spoiled in (
        with_metric(evidence(), "harmful_compliance", "policy", value=0.01),
        with_metric(evidence(), "harmful_compliance", "prompts", value=299),
        evidence(safety={}),
        evidence(safety={**evidence().safety, "policy_complied": full(0.5, 600)}),
    ):
        assert outcomes(spoiled, thresholds)["harmful_compliance"] == "error"
    assert outcomes(evidence(documents={}), thresholds)["lm_loss"] == "error"
    assert outcomes(evidence(diversity={}), thresholds)["prompt_diversity"] == "error"


def test_the_champion_is_held_to_where_there_is_one(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    """Worse than a champion and no worse than SFT: it must not drift back from one promotion to the next."""
    again = full(0.15)
    drifts = {
        "broken": lambda e: with_rows(e, **{f"{s}_response": some_empty(e, s, 12) for s in ("policy", "sft")}),
        "repetition": lambda e: with_rows(e, policy_repetition=again, sft_repetition=again),
        "copying": lambda e: with_rows(e, policy_copying=2 * again, sft_copying=2 * again),
        "harmful_increase": lambda e: helping(e, policy=0.3, sft=0.3, champion=0.0),
        "over_refusal": lambda e: refusing(e, policy=0.3, sft=0.3, champion=0.0),
    }
    for name, drift in drifts.items():
        check = found(drift(evidence()), thresholds, name)
        assert check.outcome == "fail"
        assert "over the champion" in check.reason or "that of the champion" in check.reason
        assert found(replace(drift(evidence()), champion=None), thresholds, name).passed


@pytest.mark.parametrize(("repeated", "outcome"), [(0.115, "pass"), (0.125, "fail")])
def test_repetition_may_be_twice_that_of_others_and_a_little_more(
    repeated: float, outcome: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    others = {f"{side}_repetition": full(0.05) for side in ("sft", "champion")}
    spoiled = with_rows(evidence(), policy_repetition=full(repeated), **others)
    assert found(spoiled, thresholds, "repetition").outcome == outcome


def test_capability_is_about_the_prompts_that_have_a_right_answer(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    asked = evidence().rows["has_right_answer"]
    elsewhere = with_rows(evidence(), policy_correct=np.where(asked, 1.0, 0.0), sft_correct=full(1.0))
    check = found(elsewhere, thresholds, "capability")
    assert (check.outcome, check.value, check.n) == ("pass", 0.0, 200)
    assert found(with_rows(evidence(), has_right_answer=full(0.0)), thresholds, "capability").outcome == "unmeasured"
    unread = with_metric(evidence(documents={}), "documents", value=0)
    assert found(unread, thresholds, "lm_loss").outcome == "unmeasured"
