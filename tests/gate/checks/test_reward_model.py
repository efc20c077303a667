"""The reward model of every criterion deserves trust."""

from collections.abc import Callable

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.conftest import REWARD, made_evidence
from tests.gate.spoiling import found, outcomes, with_metric

REWARD_LINEAGE = made_evidence().evaluation["lineage"]["models/reward/overall"]


def test_the_reward_model_of_every_criterion_must_hold_and_the_worst_is_named(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    close = {
        "accuracy": {"value": 0.7, "low": 0.59, "high": 0.8, "n": 90},
        "ece": 0.3,
        "length_spearman": 0.4,
    }
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


def test_where_no_answers_differ_in_length_its_bias_is_unmeasured(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    same = with_metric(evidence(), "overall", "length_spearman", value=None, report="reward")
    check = found(same, thresholds, "reward_length_bias")
    assert (check.outcome, check.blocking) == ("unmeasured", True)
    assert check.reason.startswith("no two answers of the comparisons by overall differ, in length or in reward")
    named = thresholds.model_copy(update={"may_be_unmeasured": ["reward_length_bias"]})
    assert not found(same, named, "reward_length_bias").blocking


def test_what_fails_by_one_criterion_fails_though_another_could_not_be_measured(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    named = thresholds.model_copy(update={"may_be_unmeasured": ["reward_short_answers"]})
    for low, outcome in ((0.15, "fail"), (0.66, "unmeasured")):
        known = {**REWARD, "short_accuracy": {"value": low + 0.05, "low": low, "high": low + 0.1, "n": 250}}
        for order in (("helpful", "harmless"), ("harmless", "helpful")):
            reports = {"helpful": known, "harmless": {**REWARD, "short_accuracy": None}}
            check = found(evidence(reward={name: reports[name] for name in order}), named, "reward_short_answers")
            assert (check.outcome, check.stops) == (outcome, outcome == "fail")


def test_an_interval_of_too_few_says_so(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    few = {"value": 0.947, "low": 0.842, "high": 1.0, "n": 19}
    check = found(
        with_metric(evidence(), "overall", "accuracy", value=few, report="reward"), thresholds, "reward_accuracy"
    )
    assert check.outcome == "undecided"
    assert "n = 19, and it takes 20 to tell), the whole interval must be at least 60.0%" in check.reason


def test_calibration_warns_or_stops_as_the_profile_says(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    boastful = with_metric(evidence(), "overall", "ece", value=0.3, report="reward")
    profiles = [thresholds.model_copy(update={"profile": name}) for name in ("small", "production")]
    assert [found(boastful, config, "reward_calibration").stops for config in profiles] == [False, True]
