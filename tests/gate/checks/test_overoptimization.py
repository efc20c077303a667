"""What the reward model fails to see is seen: by gold, by the referee, by the way of a training, by length."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.conftest import made_path
from tests.gate.spoiling import (
    found,
    full,
    outcomes,
    with_metric,
    with_rows,
)


def test_without_gold_the_reward_model_judges_and_the_gold_check_says_that_it_cannot(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    judged = with_metric(evidence(), "judge", value="reward")
    judged = with_rows(judged, policy_gold=full(math.nan), sft_gold=full(math.nan))
    assert {k for k, v in outcomes(judged, thresholds).items() if v != "pass"} == {"gold_gain"}
    assert outcomes(with_rows(judged, points_sft=full(math.nan)), thresholds)["better_than_sft"] == "error"
    assert outcomes(with_rows(judged, points_sft=full(0.7)), thresholds)["better_than_sft"] == "error"


RISING = [0.4, 0.7, 0.9, 1.1]


@pytest.mark.parametrize(
    ("gold", "share", "outcome"),
    [
        (RISING, 0.2, "pass"),
        ([0.4, 0.9, 0.8, 0.88], 0.2, "pass"),
        ([0.4, 0.9, 0.8, 0.88], 0.1, "undecided"),
        ([0.4, 0.9, 0.8, 0.75], 0.2, "undecided"),
        ([0.4, 0.9, 0.8, 0.6], 0.2, "fail"),
        ([0.4, 0.9, 0.8, 0.6], 0.5, "pass"),
        ([-0.4, -0.3, -0.2, -0.2], 1.0, "undecided"),
    ],
)
def test_a_policy_past_the_peak_of_its_training_is_stopped_and_the_peak_is_named(
    gold: list[float], share: float, outcome: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """The proxy rises all the way; every interval reaches 0.1 to each side. Of no gain there is no share to lose."""
    limits = thresholds.small.model_copy(update={"max_peak_drop": share})
    config = thresholds.model_copy(update={"small": limits})
    for judge in ("gold", "referee"):
        path = made_path(gold, RISING)
        if judge == "referee":
            path = [place | {"gold": None, "lead": place["lead"] | {"gold": None}} for place in path]
        check = found(with_metric(evidence(), "path", value=path), config, "gold_peak")
        assert (check.outcome, check.value) == (outcome, pytest.approx(gold[-1] - max(gold[:-1])))
        assert f"by {judge} " in check.reason
        assert ("step-2" if gold[1] == 0.9 else "step-3") in check.reason


def test_a_noisy_peak_does_not_pass(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    path = made_path([0.4, 0.9, 0.8, 0.88], RISING)
    path[1]["lead"]["gold"] |= {"low": -0.5, "high": 0.46}
    assert found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak").outcome == "undecided"


def test_a_few_prompts_decide_nothing(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    path = made_path([0.4, 0.9, 0.8, -3.0], RISING)
    for place in path:
        place["lead"]["gold"] |= {"n": 19}
    check = found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak")
    assert "past the peak" in check.reason
    assert check.outcome == "undecided"
    lost = made_path([-0.4, -0.3, -0.2], RISING[:3])
    nothing = found(with_metric(evidence(), "path", value=lost), thresholds, "gold_peak")
    assert "the whole interval must be at least +0;" in nothing.reason


def law(distance: float) -> float:
    """R(d), whose peak is at 3.4."""
    return distance * (1 - 0.45 * math.log(distance))


def test_a_policy_past_the_peak_of_the_law_is_stopped_though_no_place_on_the_way_was_better(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    distances = (0.5, 0.7, 7.0)
    path = made_path([law(distance) for distance in distances])
    for place, distance in zip(path, distances, strict=True):
        place["kl"]["value"] = distance**2
    past = found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak")
    assert (past.outcome, past.value) == ("fail", pytest.approx(law(7) - law(0.7)))
    assert "it is 0.657 past the peak at a KL of 11.5" in past.reason
    for place, distance in zip(path, (0.5, 0.7, 3.0), strict=True):
        place["kl"]["value"], place["gold"]["value"] = distance**2, law(distance)
    assert found(with_metric(evidence(), "path", value=path), thresholds, "gold_peak").outcome == "pass"


def test_a_way_that_nobody_kept_is_unmeasured_and_one_that_is_damaged_an_error(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    unknown = with_metric(evidence(), "path", value=[])
    assert found(unknown, thresholds, "gold_peak").outcome == "unmeasured"
    allowing = thresholds.model_copy(update={"may_be_unmeasured": ["gold_peak"]})
    assert not found(unknown, allowing, "gold_peak").stops
    damaged: list[Any] = [None, "path", [{}, {}], [1, 2], made_path(RISING)]
    damaged[-1][2]["lead"]["gold"]["low"] = math.nan
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
