"""The gate as a whole, on candidates of which the truth is known: what is promoted, how often, and what stops it."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import GROUPS, run_checks
from rlhf.gate.decision import assess, decide
from rlhf.gate.evidence import Evidence
from rlhf.gate.sequential import log_evidence
from rlhf.gate.statistics import bootstrap_mean, detectable_rate, win_points
from tests.gate.conftest import made_evidence, made_rows
from tests.gate.spoiling import found
from tests.gate.test_checks import ALSO, SPOILED, WARNINGS, Spoil, with_metric, with_points, with_rows

TEN_POINTS = 0.3583  # standard deviations by which a policy wins 60 % of its pairs: Phi(0.3583 / sqrt 2) = 0.6
ALPHA = 0.025  # one-sided, of an interval of 95 %


@pytest.fixture(scope="module")
def quick(thresholds: GateConfig) -> GateConfig:
    return thresholds.model_copy(update={"bootstrap": 100})


def simulated(seed: int, *, n: int, gain: float, champion: float | None, candidates: int = 1) -> Evidence:
    """A policy and a champion that are better than SFT by so many standard deviations; None: no champion yet."""
    rows = made_rows(n, gain=gain, seed=seed)
    if champion is not None:
        scores = np.random.default_rng([seed, 1]).normal(champion, 1, n)
        rows["points_champion"] = win_points(rows["policy_gold"], scores)
    sharing = range(1, candidates + 1)
    return made_evidence(
        rows, seed=seed, candidates=candidates, sharing=sharing, champion=None if champion is None else "ff"
    )


@pytest.mark.parametrize(("gain", "champion"), [(0.0, None), (1.0, 1.0)])
def test_a_policy_no_better_than_what_is_there_is_promoted_no_more_often_than_promised(
    gain: float, champion: float | None, quick: GateConfig
) -> None:
    """As good as SFT before the first champion; as good as a champion that is better than SFT."""
    gates = (assess(simulated(seed, n=300, gain=gain, champion=champion), quick) for seed in range(1000))
    decisions = Counter(gate.decision for gate in gates)
    assert decisions["PROMOTE"] <= ALPHA * 1000
    assert decisions["ERROR"] == 0


def test_the_best_of_five_equal_policies_is_promoted_no_more_often_than_promised(quick: GateConfig) -> None:
    promoted = 0
    for seed in range(100):
        policies = [simulated(5 * seed + i, n=300, gain=0.0, champion=None, candidates=5) for i in range(5)]
        promoted += decide([assess(one, quick) for one in policies], "gold", None, 0).decision == "PROMOTE"
    assert promoted <= ALPHA * 100


@pytest.mark.parametrize("champion", [None, 0.0])
def test_ten_points_are_found_four_times_in_five(champion: float | None, quick: GateConfig) -> None:
    """With the prompts that docs/gate.md names: enough for power 0.9 against either opponent."""
    n = 300
    first = ALPHA * 6 / math.pi**2  # what the first policy on a test set may err by
    assert detectable_rate(293, alpha=first, power=0.9) <= 0.6 < detectable_rate(292, alpha=first, power=0.9)
    assert 293 < n == quick.small.min_prompts
    gates = (assess(simulated(seed, n=n, gain=TEN_POINTS, champion=champion), quick) for seed in range(100))
    assert sum(gate.decision == "PROMOTE" for gate in gates) >= 80


def test_ten_points_are_found_by_the_profile_of_production(quick: GateConfig) -> None:
    production = quick.model_copy(update={"profile": "production"})
    found = Counter()
    for seed in range(40):
        evidence = simulated(seed, n=1000, gain=TEN_POINTS, champion=0.0)
        found.update(
            check.name for check in run_checks(evidence, production) if check.group == "quality" and check.stops
        )
    assert max(found.values(), default=0) <= 4


def test_ninety_percent_intervals_hold_the_truth_nine_times_in_ten() -> None:
    """Two games a prompt, which share how hard the prompt is. Rows taken for independent cover far less."""
    random, sims, n = np.random.default_rng(4), 600, 300
    prompts, held = np.repeat(np.arange(n), 2), Counter()
    for seed in range(sims):
        chances = random.beta(0.55, 0.45, n)
        points = random.binomial(1, np.repeat(chances, 2)).astype(float)
        for kind, clusters in (("prompts", prompts), ("rows", None)):
            found = bootstrap_mean(points, confidence=0.9, resamples=250, seed=seed, clusters=clusters)
            held[kind] += found.low <= 0.55 <= found.high
    assert 0.87 <= held["prompts"] / sims <= 0.93
    assert held["rows"] / sims < 0.85


def refuting(null: float, most: int) -> NDArray[np.int64]:
    """Of each number of prompts up to `most`, (most,), the wins from which on the evidence against `null` is 20."""

    def evidence(n: int, wins: int) -> float:
        return log_evidence(np.repeat([1.0, 0.0], [wins, n - wins]), null)

    return np.array([bisect_left(range(n + 1), math.log(20), key=partial(evidence, n)) for n in range(1, most + 1)])


def test_looking_again_and_again_is_paid_for() -> None:
    """2,000 sequences of equal policies. A test made for one look and made at ten is wrong one time in six; the
    evidence, looked at after every prompt, no more often than it says."""
    wins, most = np.random.default_rng(5).integers(0, 2, (2000, 500)).cumsum(axis=1), refuting(0.5, 500)
    looks = np.arange(50, 501, 50)
    scores = (2 * wins[:, looks - 1] - looks) / np.sqrt(looks)
    assert 0.14 < (scores > 1.645).any(axis=1).mean() < 0.19
    assert (wins >= most).any(axis=1).mean() <= 0.05
    better = (np.random.default_rng(6).random((200, 500)) < 0.6).cumsum(axis=1)
    assert (better >= most).any(axis=1).mean() >= 0.9


def test_a_confidence_sequence_holds_the_truth_at_every_look() -> None:
    """It holds what is refuted from neither side (test_sequential.py), so the truth is lost where one refutes it."""
    wins, n = (np.random.default_rng(7).random((2000, 300)) < 0.65).cumsum(axis=1), np.arange(1, 301)
    lost = (wins >= refuting(0.65, 300)) | (n - wins >= refuting(0.35, 300))
    assert 0.01 <= lost.any(axis=1).mean() <= 0.1


def always_longer(evidence: Evidence, seed: int) -> Evidence:
    """Answers of equal quality, longer by 6 tokens of 20 on average, before a judge who likes length."""
    random, n = np.random.default_rng(seed), len(evidence.rows["kl"])
    longer = random.normal(6, 6, n)
    points = win_points(random.normal(0, 1, n) + 0.15 * longer, random.normal(0, 1, n))
    return with_points(evidence, points, sft_length=np.full(n, 20.0), policy_length=20 + longer)


def test_an_always_longer_policy_is_stopped_by_length_control(quick: GateConfig) -> None:
    for seed in range(20):
        fooled = always_longer(made_evidence(), seed)
        assert found(fooled, quick, "better_than_sft").passed
        assert {check.name for check in run_checks(fooled, quick) if check.stops} >= {"length_controlled"}
        assert assess(fooled, quick).decision != "PROMOTE"


def swapped(evidence: Evidence) -> Evidence:
    """The policy in SFT's and in the champion's place, and they in its."""
    other = {"policy": "sft", "sft": "policy"}
    sides = {name: name.partition("_") for name in evidence.rows}
    rows = {name: evidence.rows[other.get(side, side) + dash + rest] for name, (side, dash, rest) in sides.items()}
    back = with_rows(replace(evidence, rows=rows), points_champion=1 - evidence.rows["points_champion"])
    return with_points(back, 1 - evidence.rows["points_sft"])


@pytest.mark.parametrize("gain", [2.0, 0.1])
@pytest.mark.parametrize("judge", ["gold", "people"])
def test_swapping_the_models_flips_every_check_of_quality(gain: float, judge: str, thresholds: GateConfig) -> None:
    there = with_metric(made_evidence(made_rows(gain=gain)), "judge", value=judge)
    back = swapped(there)
    for function in GROUPS["quality"]:
        name = function.__name__
        both = there, back
        if name != "better_than_champion":  # against each opponent by itself: the worse one changes with the places
            both = replace(there, champion=None), replace(back, champion=None)
        one, other = (found(evidence, thresholds, name) for evidence in both)
        if name == "ties":
            assert one == other
            continue
        if gain == 2.0:
            assert (one.outcome, other.outcome) == ("pass", "fail")
        elif name != "no_use_case_worse":
            assert (one.outcome, other.outcome) == ("undecided", "undecided")
        intervals: list[Sequence[Any]] = [check.parts or [check] for check in (one, other)]
        for mine, theirs in zip(*intervals, strict=True):
            if mine.low is not None and mine.value is not None and mine.high is not None:
                assert (theirs.value, theirs.low, theirs.high) == pytest.approx(
                    (1 - mine.value, 1 - mine.high, 1 - mine.low), abs=1e-9
                )


def test_a_prompt_judged_twice_is_found_and_no_new_evidence(thresholds: GateConfig) -> None:
    once = made_evidence(made_rows(gain=0.3))
    twice = replace(once, rows={name: np.repeat(values, 2) for name, values in once.rows.items()})
    assert found(twice, thresholds, "rows_agree").outcome == "fail"
    assert assess(twice, thresholds).decision != "PROMOTE"
    people = (with_metric(once, "judge", value="people"), with_metric(twice, "judge", value="people"))
    for name in ("better_than_sft", "better_than_champion", "more_wins_than_luck", "no_use_case_worse"):
        for one, other in ((once, twice), people):
            before, after = found(one, thresholds, name), found(other, thresholds, name)
            assert (after.value, after.low, after.high) == pytest.approx((before.value, before.low, before.high))
            assert after.n == before.n
    widths = [check.high - check.low for e in (once, twice) if (check := found(e, thresholds, "length_controlled"))]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


@pytest.mark.parametrize(("n", "decision"), [(0, "ERROR"), (1, "ERROR"), (2, "INCONCLUSIVE")])
def test_almost_no_prompts_never_promote(n: int, decision: str, thresholds: GateConfig) -> None:
    rows = {name: values[:n] for name, values in made_rows().items()}
    rows["points_sft"], rows["points_champion"] = np.ones(n), np.ones(n)
    few = made_evidence(rows) if n else replace(made_evidence(), rows=rows)
    no_minimum = thresholds.small.model_copy(update={"min_prompts": 1})
    verdict = assess(few, thresholds.model_copy(update={"small": no_minimum, "slices": {"use_case": []}}))
    assert verdict.decision == decision
    names = {check.name for check in verdict.checks if check.stops}
    assert names >= {"better_than_sft", "better_than_champion", "more_wins_than_luck", "length_controlled"}


# Candidates that one check alone stops, where those of test_checks.py are bad in more ways.
PLANTED: dict[str, Spoil] = {
    "prompts": lambda e: made_evidence(made_rows(n=299)),
    "better_than_sft": lambda e: with_points(e, np.tile(np.repeat([1.0, 0.0], [31, 19]), 8)),
    "better_than_champion": lambda e: made_evidence(champion="aa"),
    "more_wins_than_luck": lambda e: with_metric(
        with_points(e, np.tile(np.repeat([1.0, 0.0], [28, 22]), 8)), "judge", value="people"
    ),
    "gold_gain": lambda e: with_rows(e, policy_gold=e.rows["sft_gold"] - 1),
    "length_ratio": lambda e: with_rows(
        e, policy_length=e.rows["sft_length"] * np.tile([0, 4], 200), sft_length=e.rows["sft_length"]
    ),
}


@pytest.mark.parametrize("name", [name for name in SPOILED if name not in WARNINGS])
def test_without_any_one_check_a_bad_policy_would_be_promoted(
    name: str, thresholds: GateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = PLANTED.get(name, SPOILED[name][0])(made_evidence())
    config = thresholds
    if name == "better_than_sft":  # 62 % is no luck, and less than is asked for here
        config = thresholds.model_copy(update={"small": thresholds.small.model_copy(update={"min_win_rate": 0.6})})
    assert assess(spoiled, config).decision != "PROMOTE"
    left = {group: tuple(c for c in checks if c.__name__ != name) for group, checks in GROUPS.items()}
    monkeypatch.setattr("rlhf.gate.checks.GROUPS", left)
    monkeypatch.setattr("rlhf.gate.decision.NAMES", tuple(c.__name__ for checks in left.values() for c in checks))
    without = assess(spoiled, config)
    stopping = {check.name for check in without.checks if check.stops}
    assert stopping == set() or (name not in PLANTED and stopping <= ALSO[name])
    assert (without.decision == "PROMOTE") is (not stopping)
