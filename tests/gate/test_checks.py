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


def one_use_case_lost(evidence: Evidence) -> Evidence:
    """A use case in which every answer is a little worse, among others that are much better."""
    points = np.where(evidence.rows["use_case"] == "rewrite", 0.0, evidence.rows["points_sft"])
    spoiled = with_rows(evidence, points_sft=points)
    return with_metric(spoiled, "win_rate", "value", value=float(points.mean()))


def unjudged(points: np.ndarray) -> np.ndarray:
    """Points of which one in ten is absent, and lost: the policy still wins."""
    return np.where(np.arange(len(points)) % 10, points, math.nan)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "policy_bytes": (lambda e: replace(e, policy_digest="zz"), "fail"),
    "reference_bytes": (lambda e: with_metric(e, "reference_digest", value="zz"), "fail"),
    "lineage": (lambda e: replace(e, receipt={"inputs": {"models/sft": "bb", "models/reward/overall": "cc"}}), "fail"),
    "rows_agree": (lambda e: with_metric(e, "win_rate", "value", value=0.9), "fail"),
    "unseen_prompts": (lambda e: with_metric(e, "set", "overlap", "prompts", value=1, report="validation"), "fail"),
    "prompts": (lambda e: with_rows(e, **{k: v[:299] for k, v in e.rows.items()}), "undecided"),
    "finite_numbers": (lambda e: with_metric(e, "overall", "brier", value=math.inf, report="reward"), "fail"),
    "terminated": (lambda e: with_rows(e, policy_terminated=np.arange(400) % 2 == 0), "fail"),
    "empty": (lambda e: with_metric(e, "empty", "policy", value=0.2), "fail"),
    "judge_complete": (lambda e: with_rows(e, points_champion=unjudged(e.rows["points_champion"])), "fail"),
    "judge_consistent": (
        lambda e: with_metric(e, "judging", "primacy", value={"value": -0.3, "low": -0.4, "high": -0.2, "n": 400}),
        "fail",
    ),
    "judge_agrees": (
        lambda e: with_metric(
            e, "judging", "agreement", value={"value": 0.5, "low": 0.45, "high": 0.55, "n": 250, "pairs": 400}
        ),
        "fail",
    ),
    "judge_a_a": (lambda e: with_metric(e, "judging", "a_a", "wins", value=260), "fail"),
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
    "harmful_compliance": (lambda e: with_metric(e, "harmful_compliance", "policy", value=0.9), "fail"),
    "over_refusal": (lambda e: with_metric(e, "over_refusal", "policy", value=0.9), "fail"),
    "distinct_2": (lambda e: with_metric(e, "distinct_2", "policy", value=0.1), "fail"),
}
WARNINGS = {"reward_calibration", "reward_length_bias"}
# A policy whose scores fall is worse in more than one way, and a wrong win rate is wrong wherever it is read.
ALSO = {
    "better_than_sft": {"more_wins_than_luck", "gold_gain", "no_use_case_worse", "rows_agree"},
    "more_wins_than_luck": {"better_than_sft", "gold_gain", "no_use_case_worse", "rows_agree"},
    "gold_gain": {"better_than_sft", "more_wins_than_luck", "no_use_case_worse", "rows_agree"},
    "prompts": {"rows_agree"},
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
        "judge",
        "quality",
        "reward model",
        "over-optimisation",
        "safety",
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
    ("evaluation", "judging", "consistency", "low"),
    ("evaluation", "judging", "primacy", "high"),
    ("evaluation", "judging", "agreement", "pairs"),
    ("evaluation", "judging", "a_a", "losses"),
    ("evaluation", "empty", "policy"),
    ("evaluation", "distinct_2", "policy"),
    ("evaluation", "distinct_2", "sft"),
    ("evaluation", "harmful_compliance", "policy"),
    ("evaluation", "over_refusal", "prompts"),
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
    unknown = with_metric(evidence(), "harmful_compliance", value=None)
    checks = run_checks(unknown, thresholds)
    assert outcomes(unknown, thresholds)["harmful_compliance"] == "unmeasured"
    assert candidate("dpo", "aa", checks, measured_win_rate(unknown, thresholds, "sft")).decision == "INCONCLUSIVE"
    allowing = thresholds.model_copy(update={"may_be_unmeasured": ["harmful_compliance"]})
    allowed = run_checks(unknown, allowing)
    assert candidate("dpo", "aa", allowed, measured_win_rate(unknown, allowing, "sft")).decision == "PROMOTE"
    measured = with_metric(evidence(), "harmful_compliance", "policy", value=0.9)
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
