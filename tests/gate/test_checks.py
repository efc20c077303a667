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
from rlhf.gate.records import Check, Part
from tests.gate.conftest import PROMPTS, REWARD, made_evidence, made_path

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


def with_points(evidence: Evidence, points: np.ndarray, **columns: Any) -> Evidence:
    """Other points against SFT, and the report of them."""
    spoiled = with_rows(evidence, points_sft=points, **columns)
    return with_metric(spoiled, "win_rate", "value", value=float(points.mean()))


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
    return with_points(evidence, np.where(evidence.rows["use_case"] == "rewrite", 0.0, evidence.rows["points_sft"]))


def won_by_length(evidence: Evidence) -> Evidence:
    """Two answers in three are longer than SFT's, and those alone are liked."""
    longer = np.arange(400) % 3 > 0
    length = evidence.rows["sft_length"] + np.where(longer, 5, -5)
    return with_points(evidence, longer * 1.0, policy_length=length)


def mostly_tied(evidence: Evidence) -> Evidence:
    """Seven answers in ten are as good as SFT's, and the others better."""
    return with_points(evidence, np.where(np.arange(400) % 10 < 7, 0.5, 1.0))


def better_by_heart(evidence: Evidence) -> Evidence:
    """The policy wins on the few prompts that were read in training, and is as good as SFT on all others."""
    read = np.arange(400) < 36
    points = np.where(read, 1.0, 0.5)
    spoiled = with_rows(evidence, points_sft=points, seen=np.where(read, 1.0, 0.0))
    return with_metric(spoiled, "win_rate", "value", value=float(points.mean()))


def unjudged(points: np.ndarray) -> np.ndarray:
    """Points of which one in ten is absent, and lost: the policy still wins."""
    return np.where(np.arange(len(points)) % 10, points, math.nan)


def longer_where_better(evidence: Evidence) -> Evidence:
    """Every token that the policy says more is worth 0.4 to the reward model, and nothing else is."""
    longer = np.arange(PROMPTS) % 6
    rows = evidence.rows
    return with_rows(
        evidence,
        policy_length=rows["sft_length"] + longer,
        policy_reward=rows["sft_reward"] + 0.4 * longer + np.random.default_rng(1).normal(0, 0.5, PROMPTS),
    )


REWARD_LINEAGE = made_evidence().evaluation["lineage"]["models/reward/overall"]


ALARM = {"name": "flips/annotator/mallory", "found": "follows the others -0.70 times as far"}
SPOILED: dict[str, tuple[Spoil, str]] = {
    "policy_bytes": (lambda e: replace(e, policy_digest="zz"), "fail"),
    "reference_bytes": (lambda e: with_metric(e, "reference_digest", value="zz"), "fail"),
    "champion_bytes": (lambda e: with_metric(e, "champion_digest", value=None), "fail"),
    "file_format": (lambda e: with_metric(e, "files", "foreign", value=["pytorch_model.bin"]), "fail"),
    "lineage": (lambda e: with_metric(e, "lineage", "models/sft", "inputs", "data/clean", value="zz"), "fail"),
    "rows_agree": (lambda e: with_metric(e, "win_rate", "value", value=0.9), "fail"),
    "unseen_prompts": (lambda e: with_metric(e, "set", "overlap", "prompts", value=1, report="validation"), "fail"),
    "unseen_conversations": (
        lambda e: with_metric(e, "set", "overlap", "conversations", value=1, report="validation"),
        "fail",
    ),
    "test_set": (lambda e: replace(e, uses=41), "fail"),
    "contamination": (lambda e: with_rows(e, seen=np.where(np.arange(400) % 5, 0.0, 0.9)), "fail"),
    "clean_subset": (better_by_heart, "undecided"),
    "prompts": (lambda e: with_rows(e, **{k: v[:299] for k, v in e.rows.items()}), "undecided"),
    "finite_numbers": (lambda e: with_metric(e, "overall", "brier", value=math.inf, report="reward"), "fail"),
    "terminated": (lambda e: with_rows(e, policy_terminated=np.arange(400) % 2 == 0), "fail"),
    "empty": (lambda e: with_rows(e, policy_response=some_empty(e, "policy", 10)), "fail"),
    "broken": (lambda e: with_rows(e, policy_terminated=np.arange(400) % 20 != 0), "fail"),
    "repetition": (lambda e: with_rows(e, policy_repetition=2.5 * e.rows["sft_repetition"] + 0.03), "fail"),
    "copying": (lambda e: with_rows(e, policy_copying=e.rows["sft_copying"] + 0.2), "fail"),
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
    "length_controlled": (won_by_length, "undecided"),
    "ties": (mostly_tied, "undecided"),
    "no_use_case_worse": (one_use_case_lost, "fail"),
    "reward_accuracy": (
        lambda e: with_metric(
            e, "overall", "accuracy", value={"value": 0.52, "low": 0.5, "high": 0.54, "pairs": 90}, report="reward"
        ),
        "fail",
    ),
    "reward_short_answers": (
        lambda e: with_metric(
            e, "overall", "short_accuracy", value={"value": 0.3, "low": 0.2, "high": 0.4, "pairs": 90}, report="reward"
        ),
        "fail",
    ),
    "referee_accuracy": (
        lambda e: with_metric(
            e, "accuracy", value={"value": 0.52, "low": 0.5, "high": 0.54, "pairs": 90}, report="referee"
        ),
        "fail",
    ),
    "reward_calibration": (lambda e: with_metric(e, "overall", "ece", value=0.3, report="reward"), "fail"),
    "reward_length_bias": (lambda e: with_metric(e, "overall", "length_spearman", value=-0.9, report="reward"), "fail"),
    "feedback_alarms": (
        lambda e: with_metric(e, "screening", "alarms", value=[ALARM], report="validation"),
        "fail",
    ),
    "kl": (lambda e: with_rows(e, kl=e.rows["kl"] + 60), "fail"),
    "gold_gain": (worse, "fail"),
    "referee_gain": (
        lambda e: with_rows(e, policy_referee=e.rows["sft_referee"] - 0.1, policy_reward=e.rows["sft_reward"] - 0.1),
        "fail",
    ),
    "proxy_referee": (lambda e: with_rows(e, policy_reward=e.rows["policy_reward"] + 5), "fail"),
    "gold_peak": (
        lambda e: with_metric(e, "path", value=made_path([0.4, 0.9, 0.8, 0.6], [0.4, 0.7, 0.9, 1.1])),
        "fail",
    ),
    "length_gain": (longer_where_better, "fail"),
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
    "serves": (lambda e: with_metric(e, "serving", "served", value=False), "fail"),
    "parity": (lambda e: with_metric(e, "serving", "same", value=15), "fail"),
    "serving_cost": (lambda e: with_metric(e, "serving", "cost", "peak_memory", value=500_000_000), "fail"),
}
WARNINGS = {"reward_calibration", "reward_length_bias", "lm_loss", "entropy", "serving_cost"}
# A policy whose scores fall is worse in more than one way, and a wrong win rate is wrong wherever it is read. Where
# every answer is much longer, nobody knows what equal length would give.
LOST = {
    "better_than_sft",
    "more_wins_than_luck",
    "length_controlled",
    "no_use_case_worse",
    "gold_gain",
    "rows_agree",
}
ALSO = {
    "better_than_sft": LOST,
    "better_than_champion": {"more_wins_than_luck", "no_use_case_worse", "rows_agree", "length_controlled"},
    "more_wins_than_luck": LOST,
    "gold_gain": LOST,
    "length_ratio": {"length_controlled", "length_gain"},
    "prompts": {"rows_agree"},
    "judge_complete": {"rows_agree"},
    "clean_subset": {"ties"},
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
        "judge",
        "quality",
        "reward model",
        "over-optimisation",
        "safety",
        "alignment tax",
        "diversity",
        "serving",
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
    ("evaluation", "distinct_2", "policy"),
    ("evaluation", "distinct_2", "sft"),
    ("evaluation", "harmful_compliance", "policy"),
    ("evaluation", "over_refusal", "prompts"),
    ("evaluation", "champion_win_rate", "value"),
    ("evaluation", "serving", "prompts"),
    ("evaluation", "serving", "same"),
    ("evaluation", "serving", "cost", "latency_p95"),
    ("evaluation", "serving", "champion", "cost", "peak_memory"),
    ("evaluation", "documents"),
    ("validation", "set", "overlap", "prompts"),
    ("validation", "set", "overlap", "conversations"),
    ("validation", "screening", "judgements"),
    ("reward", "overall", "accuracy", "low"),
    ("reward", "overall", "accuracy", "high"),
    ("reward", "overall", "ece"),
    ("reward", "overall", "short_accuracy", "low"),
    ("referee", "accuracy", "value"),
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
@pytest.mark.parametrize(
    "name", ["policy_reward", "sft_reward", "policy_referee", "kl", "policy_length", "policy_terminated", "seen"]
)
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


def test_a_number_deep_in_a_report_that_is_none_is_found(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    for spoiled in (
        with_metric(evidence(), "path", value=[*evidence().evaluation["path"], {"kl": {"value": math.nan}}]),
        replace(evidence(), referee={**REWARD, "brier": math.inf}),
        with_metric(evidence(), "set", "overlap", "test_prompts", value=math.nan, report="validation"),
    ):
        assert outcomes(spoiled, thresholds)["finite_numbers"] == "fail"


def test_an_alarm_about_the_feedback_is_answered_for_by_name(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    alarmed = with_metric(evidence(), "screening", "alarms", value=[ALARM], report="validation")
    stopped = found(alarmed, thresholds, "feedback_alarms")
    assert stopped.stops
    assert "flips/annotator/mallory (follows the others -0.70 times as far)" in stopped.reason
    for accepted, passes in (("flips/annotator/mallory", True), ("flips/annotator/alice", False)):
        answered = thresholds.model_copy(update={"accepted_alarms": [accepted]})
        assert found(alarmed, answered, "feedback_alarms").passed is passes
    for lost in ([{"found": "no name"}], [ALARM, ALARM], ["flips"], None):
        broken = with_metric(evidence(), "screening", "alarms", value=lost, report="validation")
        assert found(broken, thresholds, "feedback_alarms").outcome == "error"


def test_an_interval_of_few_decides_nothing(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    for pairs, outcome in ((19, "undecided"), (20, "pass")):
        certain = {"value": 1.0, "low": 1.0, "high": 1.0, "pairs": pairs}
        spoiled = with_metric(evidence(), "overall", "accuracy", value=certain, report="reward")
        check = found(spoiled, thresholds, "reward_accuracy")
        assert (check.outcome, check.needed) == (outcome, 20 if pairs < 20 else None)


def test_what_was_judged_before_on_the_same_prompts_is_paid_for(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """Over all policies that will ever be judged, alpha is spent once: 6 / pi^2 of it on the first."""
    alone = [1 - family_confidence(evidence(uses=k), thresholds) for k in range(5000)]
    assert alone[0] == pytest.approx(0.05 * 6 / math.pi**2)
    assert 0.0499 < sum(alone) < 0.05
    pair = 1 - family_confidence(evidence(candidates=2, uses=3), thresholds)
    assert 2 * pair == pytest.approx(alone[3] + alone[4])


def test_the_reward_model_of_every_criterion_must_hold_and_the_worst_is_named(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    close = {"accuracy": {"value": 0.7, "low": 0.59, "high": 0.8, "pairs": 90}, "ece": 0.3, "length_spearman": 0.4}
    inputs = {**evidence().receipt["inputs"], "models/reward/harmless": "ff"}
    two = evidence(reward={"overall": REWARD, "harmless": close}, receipt={"inputs": inputs})
    two = with_metric(two, "lineage", "models/reward/harmless", value={**REWARD_LINEAGE, "digest": "ff"})
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


RISING = [0.4, 0.7, 0.9, 1.1]
LAW = [1.0, 2 * (1 - 0.45 * math.log(2)), 5 * (1 - 0.45 * math.log(5))]  # R(d) at d = 1, 2 and 5; its peak is at 3.4


@pytest.mark.parametrize(
    ("gold", "standard_errors", "outcome"),
    [
        (RISING, 1.0, "pass"),
        ([0.4, 0.9, 0.8, 0.88], 1.0, "pass"),
        ([0.4, 0.9, 0.8, 0.83], 2.0, "pass"),
        ([0.4, 0.9, 0.8, 0.83], 1.0, "undecided"),
        ([0.4, 0.9, 0.8, 0.75], 2.0, "fail"),
        ([0.4, 0.9, 0.8, 0.75], 9.0, "pass"),
    ],
)
def test_a_policy_past_the_peak_of_its_training_is_stopped_and_the_peak_is_named(
    gold: list[float],
    standard_errors: float,
    outcome: str,
    evidence: Callable[..., Evidence],
    thresholds: GateConfig,
) -> None:
    """The proxy rises all the way; the standard error of every lead is 0.05, its interval twice that to each side."""
    limits = thresholds.small.model_copy(update={"max_peak_drop": standard_errors})
    config = thresholds.model_copy(update={"small": limits})
    for judge in ("gold", "referee"):
        path = made_path(gold, RISING)
        if judge == "referee":
            path = [place | {"gold": None, "lead": place["lead"] | {"gold": None}} for place in path]
        check = found(with_metric(evidence(), "path", value=path), config, "gold_peak")
        assert (check.outcome, check.value) == (outcome, pytest.approx(gold[-1] - max(gold[:-1])))
        assert f"by {judge} " in check.reason
        assert ("step-3" if gold == RISING else "step-2") in check.reason


def test_a_policy_past_the_peak_of_the_law_is_stopped_though_no_place_on_the_way_was_better(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    path = made_path(LAW)
    path[-1]["kl"] |= {"value": 25.0}
    past = found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak")
    assert (past.outcome, past.value) == ("fail", pytest.approx(LAW[2] - LAW[1]))
    assert "it is 0.149 past the peak at a KL of 11.5" in past.reason
    assert found(with_metric(evidence(), "path", value=made_path(LAW)), thresholds, "gold_peak").outcome == "pass"


def test_a_way_that_nobody_kept_is_unmeasured_and_one_that_is_damaged_an_error(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    unknown = with_metric(evidence(), "path", value=[])
    assert found(unknown, thresholds, "gold_peak").outcome == "unmeasured"
    allowing = thresholds.model_copy(update={"may_be_unmeasured": ["gold_peak"]})
    assert not found(unknown, allowing, "gold_peak").stops
    damaged: list[Any] = [None, "path", [{}, {}], [1, 2], made_path(RISING)]
    damaged[-1][2]["lead"]["gold"]["error"] = math.nan
    for path in damaged:
        assert found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak").outcome == "error", path


def test_the_share_of_length_is_asked_only_of_a_gain_and_never_guessed(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    rows = evidence().rows
    lost = with_rows(evidence(), policy_reward=rows["sft_reward"] - 1)
    assert found(lost, thresholds, "length_gain").outcome == "pass"
    alike = with_rows(evidence(), policy_length=rows["sft_length"] + 2)
    assert found(alike, thresholds, "length_gain").outcome == "undecided"
    same = with_rows(evidence(), policy_length=rows["sft_length"])
    assert found(same, thresholds, "length_gain").value == 1.0


def test_calibration_warns_or_stops_as_the_profile_says(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    boastful = with_metric(evidence(), "overall", "ece", value=0.3, report="reward")
    profiles = [thresholds.model_copy(update={"profile": name}) for name in ("small", "production")]
    assert [found(boastful, config, "reward_calibration").stops for config in profiles] == [False, True]


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
    assert family_confidence(among_ten, thresholds) == pytest.approx(1 - 0.05 * 0.9421 / 10, abs=1e-5)
    one, ten = (found(e, thresholds, "better_than_sft") for e in (alone, among_ten))
    assert one.low is not None
    assert ten.low is not None
    assert ten.low < one.low
    assert found(among_ten, thresholds, "more_wins_than_luck").threshold == pytest.approx(0.05 * 0.9421 / 20, rel=1e-4)


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


def test_slices_carry_their_intervals_and_small_ones_are_pooled(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    cases = np.array([f"rare {index}" if index < 45 else "chat" for index in range(400)])
    config = thresholds.model_copy(update={"slices": {"use_case": ["chat", "rare 7"]}})
    spoiled = with_rows(evidence(), use_case=cases)
    check = found(spoiled, config, "no_use_case_worse")
    assert check.passed
    assert [(part.name, part.n) for part in check.parts] == [
        ("chat against SFT", 355),
        ("any other use_case against SFT", 45),
        ("chat against the champion", 355),
        ("any other use_case against the champion", 45),
    ]
    assert [part.value for part in check.parts[:2]] == pytest.approx(
        [spoiled.rows["points_sft"][45:].mean(), spoiled.rows["points_sft"][:45].mean()]
    )
    assert check.low == min(part.low for part in check.parts)
    alone = found(replace(spoiled, champion=None), config, "no_use_case_worse")
    assert alone.parts == check.parts[:2]


def test_what_is_left_after_pooling_is_never_a_handful(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    config = thresholds.model_copy(update={"slices": {"use_case": []}})
    cases = np.repeat(["chat", "rewrite", "rare", "rarer"], [250, 145, 3, 2])
    check = found(with_rows(evidence(champion=None), use_case=cases), config, "no_use_case_worse")
    assert [(part.name, part.n) for part in check.parts] == [
        ("chat against SFT", 250),
        ("any other use_case against SFT", 150),
    ]
    one = found(with_rows(evidence(champion=None), use_case=np.full(400, "rare")), config, "no_use_case_worse")
    assert [part.n for part in one.parts] == [400]


def test_a_slice_lost_to_the_champion_alone_is_found(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    points = np.where(evidence().rows["use_case"] == "chat", 0.0, evidence().rows["points_champion"])
    check = found(with_rows(evidence(), points_champion=points), thresholds, "no_use_case_worse")
    assert (check.outcome, check.value) == ("fail", 0.0)
    assert check.reason.startswith("win rate on chat against the champion is 0.0%")


def test_one_slice_of_many_is_held_against_what_chance_does_to_the_worst_of_them(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """7 of 50 is below 30 % with p = 0.0073, which the worst of eight slices easily is; 2 of 50 is not."""
    config = thresholds.model_copy(update={"slices": {"use_case": []}})
    cases = np.repeat(list("abcdefgh"), 50)
    for wins, outcome in ((7, "undecided"), (2, "fail")):
        points = np.where(cases == "c", np.arange(400) % 50 < wins, np.arange(400) % 5 < 3) * 1.0
        lost = with_rows(evidence(champion=None), use_case=cases, points_sft=points)
        check = found(lost, config, "no_use_case_worse")
        assert (check.outcome, check.value) == (outcome, wins / 50)


def test_a_part_that_is_no_number_is_an_error(
    evidence: Callable[..., Evidence], thresholds: GateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(evidence: Evidence, config: GateConfig) -> Check:
        return Check(outcome="pass", reason="", parts=(Part("chat", math.nan, 0.1, 0.9, 5),))

    monkeypatch.setattr("rlhf.gate.checks.GROUPS", {"quality": (broken,)})
    (check,) = run_checks(evidence(), thresholds)
    assert (check.outcome, check.reason) == ("error", "the chat.value of this check came out as no finite number")


def test_a_slice_that_is_named_and_has_no_prompts_is_a_failure(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    named = thresholds.model_copy(update={"slices": {"use_case": ["chat", "translation"]}})
    check = found(evidence(), named, "no_use_case_worse")
    assert (check.outcome, check.reason) == ("fail", "no prompt of use_case translation, which gate.slices names")
    unknown = thresholds.model_copy(update={"slices": {"language": []}})
    assert found(evidence(), unknown, "no_use_case_worse").outcome == "error"


def test_a_slice_of_too_few_prompts_to_tell_is_open(
    evidence: Callable[..., Evidence], rows: Callable[..., dict[str, Any]], thresholds: GateConfig
) -> None:
    made = rows(n=400, gain=0.2)
    made["use_case"] = np.where(np.arange(400) < 360, "chat", "rare")
    made["points_sft"][360:] = np.tile([0.0, 1.0, 0.0, 0.0, 1.0], 8)
    config = thresholds.model_copy(update={"slices": {"use_case": []}})
    check = found(evidence(made, champion=None), config, "no_use_case_worse")
    assert (check.outcome, check.n, check.value) == ("undecided", 40, 0.4)
    assert check.needed is not None
    assert 400 < check.needed < 4000


def test_length_control_that_moves_the_win_rate_far_is_looked_at_by_people(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """A judge who likes length, and a policy that is better and shorter: more is claimed than was seen."""
    random = np.random.default_rng(0)
    longer = random.normal(-6, 6, 400)
    chance = 1 / (1 + np.exp(-(1.8 + 2 * np.tanh(longer / longer.std()))))
    points = (random.random(400) < chance) * 1.0
    spoiled = with_points(evidence(champion=None), points, policy_length=100 + longer, sft_length=np.full(400, 100.0))
    check = found(spoiled, thresholds, "length_controlled")
    assert check.low is not None
    assert check.low > 0.5
    assert check.value is not None
    assert check.value - points.mean() > 0.1
    assert check.outcome == "undecided"
    generous = thresholds.small.model_copy(update={"max_length_shift": 0.4})
    assert found(spoiled, thresholds.model_copy(update={"small": generous}), "length_controlled").passed


def test_verdicts_of_people_are_held_to_an_interval_for_every_look(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """230 of 400 is significant once (p = 0.0016), and not where it is looked at again and again."""
    points = np.tile(np.repeat([1.0, 0.0], [23, 17]), 10)
    close = with_points(evidence(champion=None), points)
    once = found(close, thresholds, "more_wins_than_luck")
    assert (once.outcome, round(once.value or 1, 4)) == ("pass", 0.0016)
    by_people = with_metric(close, "judge", value="people")
    always = found(by_people, thresholds, "more_wins_than_luck")
    assert (always.outcome, always.value, always.threshold) == ("undecided", 0.575, 0.5)
    assert "by people, however often it is looked at" in always.reason
    assert found(with_metric(evidence(), "judge", value="people"), thresholds, "more_wins_than_luck").passed


def test_luck_is_ruled_out_against_the_champion_too(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    level = found(with_rows(evidence(), points_champion=np.tile([0.0, 1.0], 200)), thresholds, "more_wins_than_luck")
    assert level.outcome == "undecided"
    assert "over the champion" in level.reason


@pytest.mark.parametrize(
    ("keys", "digest", "reason"),
    [
        (("models/sft", "digest"), "zz", "models/sft is zz by the evaluation and bb by the policy"),
        (("models/sft", "inputs", "models/base"), "", "the receipts lack models/base"),
        (
            ("data/judgements", "inputs", "data/clean"),
            "zz",
            "data/clean is ee by models/sft and zz by data/judgements",
        ),
        (("data/clean", "inputs"), {}, "the receipts lack data/raw"),
        (
            ("models/reward/overall", "inputs", "models/sft"),
            "zz",
            "bb by the evaluation and zz by models/reward/overall",
        ),
    ],
)
def test_a_chain_of_receipts_that_is_broken_is_named(
    keys: tuple[str, ...], digest: Any, reason: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    check = found(with_metric(evidence(), "lineage", *keys, value=digest), thresholds, "lineage")
    assert check.outcome == "fail"
    assert reason in check.reason


def test_what_a_policys_directory_may_not_hold_is_named(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    bad = {"foreign": ["modeling.py", "x.pkl"], "code": ["config.json"], "same_template": False}
    check = found(with_metric(evidence(), "files", value=bad), thresholds, "file_format")
    assert check.reason == (
        "the policy's directory: holds modeling.py, holds x.pkl, config.json names code of its own, "
        "its chat template is not SFT's"
    )
    unknown = with_metric(evidence(), "files", value={"foreign": [], "code": []})
    assert outcomes(unknown, thresholds)["file_format"] == "error"


def test_an_unpinned_test_set_says_what_to_pin(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    unpinned = thresholds.model_copy(update={"test_set": None})
    warned = found(evidence(), unpinned, "test_set")
    assert (warned.outcome, warned.blocking) == ("undecided", False)
    assert "set gate.test_set of params.yaml to dd" in warned.reason
    strict = found(evidence(), unpinned.model_copy(update={"profile": "production"}), "test_set")
    assert (strict.outcome, strict.blocking) == ("undecided", True)
    assert found(evidence(uses=41), unpinned, "test_set").stops, "a set that is worn out stops in either profile"
    assert found(evidence(), thresholds.model_copy(update={"test_set": "zz"}), "test_set").stops
    assert found(evidence(uses=40), thresholds, "test_set").passed
    for sets in ({"dd", "ee"}, {None}, set[str]()):
        assert found(evidence(test_sets=sets), thresholds, "test_set").stops


def test_contaminated_prompts_are_named(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    read = np.isin(np.arange(400), [7, 11])
    check = found(with_rows(evidence(), seen=np.where(read, 0.8, 0.79)), thresholds, "contamination")
    assert (check.outcome, check.value) == ("pass", 0.005)
    assert check.reason.endswith(": p0007, p0011")
    strict = thresholds.model_copy(update={"profile": "production"})
    many = with_rows(evidence(), seen=np.where(np.arange(400) < 5, 1.0, 0.0))
    assert found(many, strict, "contamination").outcome == "fail", "1.25 % is more than 1 %"
    assert found(many, thresholds, "contamination").outcome == "pass"


def test_a_win_rate_against_the_champion_that_its_rows_do_not_give_is_found(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    check = found(with_metric(evidence(), "champion_win_rate", "value", value=0.9), thresholds, "rows_agree")
    assert check.outcome == "fail"
    assert check.reason.startswith("champion_win_rate is 0.")


def test_cost_stops_in_production_alone(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    slow = with_metric(evidence(), "serving", "cost", "latency_p95", value=0.0241)
    check = found(slow, thresholds, "serving_cost")
    assert (check.outcome, check.value, check.stops) == ("fail", pytest.approx(1.205), False)
    production = thresholds.model_copy(update={"profile": "production"})
    assert found(slow, production, "serving_cost").stops
    assert found(with_metric(slow, "serving", "cost", "latency_p95", value=0.0239), production, "serving_cost").passed
    unserved = with_metric(evidence(), "serving", "served", value=False)
    unserved = with_metric(unserved, "serving", "reason", value="no safetensors")
    assert "no safetensors" in found(unserved, production, "serves").reason
    for side in ((), ("champion",)):
        unknown = with_metric(evidence(), "serving", *side, "cost", value=None)
        check = found(unknown, production, "serving_cost")
        assert (check.outcome, check.stops) == ("unmeasured", True)
        assert not found(unknown, thresholds, "serving_cost").stops


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
