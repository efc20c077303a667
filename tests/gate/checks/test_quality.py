"""Better than SFT and the champion: beyond luck, at equal length, on every kind of prompt."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.checks.quality import family_confidence
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import (
    found,
    with_metric,
    with_points,
    with_rows,
)


def test_what_was_judged_before_on_the_same_prompts_is_paid_for(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    """Over all policies that will ever be judged, alpha is spent once: 6 / pi^2 of it on the first."""
    alone = [1 - family_confidence(evidence(sharing=range(k, k + 1)), thresholds) for k in range(1, 5001)]
    assert alone[0] == pytest.approx(0.05 * 6 / math.pi**2)
    assert 0.0499 < sum(alone) < 0.05
    pair = 1 - family_confidence(evidence(sharing=range(4, 6)), thresholds)
    assert 2 * pair == pytest.approx(alone[3] + alone[4])


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
    alone, among_ten = evidence(), evidence(candidates=10, sharing=range(1, 11))
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
        ("use_case chat against SFT", 355),
        ("any other use_case against SFT", 45),
        ("use_case chat against the champion", 355),
        ("any other use_case against the champion", 45),
    ]
    assert [part.value for part in check.parts[:2]] == pytest.approx(
        [spoiled.rows["points_sft"][45:].mean(), spoiled.rows["points_sft"][:45].mean()]
    )
    assert check.low == min(part.low for part in check.parts)
    alone = found(replace(spoiled, champion=None), config, "no_use_case_worse")
    assert alone.parts == check.parts[:2]


@pytest.mark.parametrize("allowed", [0.5, 0.6, 1.0])
def test_a_margin_of_half_and_more_lets_every_slice_pass(
    allowed: float, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    limits = thresholds.small.model_copy(update={"max_slice_loss": allowed})
    check = found(
        with_points(evidence(), np.zeros(400)), thresholds.model_copy(update={"small": limits}), "no_use_case_worse"
    )
    assert (check.outcome, check.threshold) == ("pass", 0.0)


def test_what_is_left_after_pooling_is_never_a_handful(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    config = thresholds.model_copy(update={"slices": {"use_case": []}})
    cases = np.repeat(["chat", "rewrite", "rare", "rarer"], [250, 145, 3, 2])
    check = found(with_rows(evidence(champion=None), use_case=cases), config, "no_use_case_worse")
    assert [(part.name, part.n) for part in check.parts] == [
        ("use_case chat against SFT", 250),
        ("any other use_case against SFT", 150),
    ]
    one = found(with_rows(evidence(champion=None), use_case=np.full(400, "rare")), config, "no_use_case_worse")
    assert [part.n for part in one.parts] == [400]


@pytest.mark.parametrize("worst", ["kind user", "turns several", "prompt_length long"])
def test_prompts_are_sliced_by_their_form_too(
    worst: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    name, value = worst.split()
    points = np.where(evidence().rows[name] == value, 0.0, evidence().rows["points_sft"])
    check = found(with_rows(evidence(), points_sft=points), thresholds, "no_use_case_worse")
    assert check.outcome == "fail"
    assert f"win rate on {worst} against SFT is 0.0%" in check.reason


def test_ties_that_may_be_too_many_are_open(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    for tied, outcome in ((0.5, "pass"), (0.58, "undecided"), (0.9, "undecided")):
        points = np.where(np.arange(400) < tied * 400, 0.5, 1.0)
        check = found(with_points(evidence(champion=None), points), thresholds, "ties")
        assert (check.outcome, check.value) == (outcome, tied)


def test_markdown_that_the_judge_likes_does_not_win(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    """Two answers in three have a list, and those alone are liked."""
    listed = np.arange(400) % 3 > 0
    answers = np.where(listed, "- one\n- two", "- one")
    spoiled = with_points(evidence(champion=None), listed * 1.0, policy_response=answers)
    others = with_rows(spoiled, sft_response=np.where(listed, "- one", "- one\n- two"))
    check = found(others, thresholds, "length_controlled")
    assert check.outcome == "undecided"
    assert check.reason.startswith("win rate against SFT at equal length and style is")
    plain = with_rows(others, policy_response=others.rows["sft_response"])
    assert found(plain, thresholds, "length_controlled").passed


def test_a_slice_lost_to_the_champion_alone_is_found(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    points = np.where(evidence().rows["use_case"] == "chat", 0.0, evidence().rows["points_champion"])
    check = found(with_rows(evidence(), points_champion=points), thresholds, "no_use_case_worse")
    assert (check.outcome, check.value) == ("fail", 0.0)
    assert check.reason.startswith("win rate on use_case chat against the champion is 0.0%")


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
