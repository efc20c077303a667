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
from rlhf.gate.checks.quality import measured_win_rate
from rlhf.gate.decision import candidate
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import Check, Part
from tests.gate.conftest import PROMPTS, REWARD, made_path
from tests.gate.spoiling import (
    Spoil,
    found,
    full,
    helping,
    outcomes,
    refusing,
    some_empty,
    with_metric,
    with_points,
    with_rows,
)


def worse(evidence: Evidence) -> Evidence:
    """Every answer of the policy is worse than SFT's."""
    return with_rows(evidence, policy_gold=evidence.rows["sft_gold"] - 1, points_sft=0 * evidence.rows["points_sft"])


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


ALARM = {"name": "flips/annotator/mallory", "found": "follows the others -0.70 times as far"}
SPOILED: dict[str, tuple[Spoil, str]] = {
    "policy_bytes": (lambda e: replace(e, policy_digest="zz"), "fail"),
    "reference_bytes": (lambda e: with_metric(e, "reference_digest", value="zz"), "fail"),
    "champion_bytes": (lambda e: with_metric(e, "champion_digest", value=None), "fail"),
    "file_format": (lambda e: with_metric(e, "files", "foreign", value=["pytorch_model.bin"]), "fail"),
    "lineage": (lambda e: with_metric(e, "lineage", "data/judgements", "inputs", "data/clean", value="zz"), "fail"),
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
    "skipped_steps": (lambda e: with_metric(e, "skipped", value=5, report="align"), "fail"),
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
            e,
            "overall",
            "accuracy",
            value={"value": 0.52, "low": 0.5, "high": 0.54, "n": 90},
            report="reward",
        ),
        "fail",
    ),
    "reward_short_answers": (
        lambda e: with_metric(
            e,
            "overall",
            "short_accuracy",
            value={"value": 0.3, "low": 0.2, "high": 0.4, "n": 90},
            report="reward",
        ),
        "fail",
    ),
    "referee_accuracy": (
        lambda e: with_metric(
            e, "accuracy", value={"value": 0.52, "low": 0.5, "high": 0.54, "n": 90}, report="referee"
        ),
        "fail",
    ),
    "reward_calibration": (lambda e: with_metric(e, "overall", "ece", value=0.3, report="reward"), "fail"),
    "reward_length_bias": (lambda e: with_metric(e, "overall", "length_spearman", value=-0.9, report="reward"), "fail"),
    "feedback_alarms": (
        lambda e: with_metric(e, "alarms", value=[ALARM], report="screening"),
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
    ("sft", "skipped"),
    ("align", "steps"),
    ("reward", "overall", "skipped"),
    ("validation", "set", "overlap", "prompts"),
    ("validation", "set", "overlap", "conversations"),
    ("screening", "judgements"),
    ("reward", "overall", "accuracy", "low"),
    ("reward", "overall", "accuracy", "high"),
    ("reward", "overall", "ece"),
    ("reward", "overall", "short_accuracy", "low"),
    ("referee", "accuracy", "value"),
    ("reward", "overall", "length_spearman"),
]


NO_NUMBERS = [math.nan, math.inf, -math.inf, "0.9", True, None, [1.0]]
UNMEASURED = ("length_spearman", None)  # null where no two answers of a pair differ in length


@pytest.mark.parametrize(
    ("path", "bad"), [(path, bad) for path in NUMBERS for bad in NO_NUMBERS if (path[-1], bad) != UNMEASURED]
)
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


def test_a_row_without_a_prompt_is_a_sentence(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    ids = evidence().rows["prompt_id"].astype(object)
    ids[7] = None
    check = found(with_rows(evidence(), prompt_id=ids), thresholds, "better_than_sft")
    assert (check.outcome, check.reason) == ("error", "column prompt_id of the evaluation's rows holds no texts")


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
        with_metric(evidence(), "tests", value={"flips": math.nan}, report="screening"),
    ):
        assert outcomes(spoiled, thresholds)["finite_numbers"] == "fail"


def test_an_alarm_about_the_feedback_is_answered_for_by_name(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    alarmed = with_metric(evidence(), "alarms", value=[ALARM], report="screening")
    stopped = found(alarmed, thresholds, "feedback_alarms")
    assert stopped.stops
    assert "flips/annotator/mallory (follows the others -0.70 times as far)" in stopped.reason
    for accepted, passes in (("flips/annotator/mallory", True), ("flips/annotator/alice", False)):
        answered = thresholds.model_copy(update={"accepted_alarms": [accepted]})
        check = found(alarmed, answered, "feedback_alarms")
        assert check.passed is passes
        assert ("No alarm has the name flips/annotator/alice of" in check.reason) is not passes
    for lost in ([{"found": "no name"}], [ALARM, ALARM], ["flips"], None):
        broken = with_metric(evidence(), "alarms", value=lost, report="screening")
        assert found(broken, thresholds, "feedback_alarms").outcome == "error"


def test_an_interval_of_few_decides_nothing(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    """Prompts, of which each has several pairs here."""
    for prompts, outcome in ((19, "undecided"), (20, "pass")):
        certain = {"value": 1.0, "low": 1.0, "high": 1.0, "n": prompts, "pairs": 9 * prompts}
        spoiled = with_metric(evidence(), "overall", "accuracy", value=certain, report="reward")
        check = found(spoiled, thresholds, "reward_accuracy")
        assert (check.outcome, check.needed) == (outcome, 20 if prompts < 20 else None)


def test_a_part_that_is_no_number_is_an_error(
    evidence: Callable[..., Evidence], thresholds: GateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(evidence: Evidence, config: GateConfig) -> Check:
        return Check(outcome="pass", reason="", parts=(Part(math.nan, 0.1, 0.9, 5, "chat"),))

    monkeypatch.setattr("rlhf.gate.checks.GROUPS", {"quality": (broken,)})
    (check,) = run_checks(evidence(), thresholds)
    assert (check.outcome, check.reason) == ("error", "the chat.value of this check came out as no finite number")
