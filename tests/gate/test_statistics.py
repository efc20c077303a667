"""Every statistic against numbers worked out by hand or printed in the literature."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf.gate.statistics import (
    binomial_interval,
    bootstrap_mean,
    bootstrap_ratio,
    calibration,
    detectable_rate,
    holm,
    paired_difference,
    pairwise_accuracy,
    sample_size,
    settling_size,
    sign_test,
    win_points,
    win_rate,
)

RESAMPLING = {"confidence": 0.95, "resamples": 4000, "seed": 0}


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 500)
    found = bootstrap_mean(values, **RESAMPLING)
    half = 1.96 * values.std() / math.sqrt(500)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert found.n == 500


def test_rows_of_one_prompt_are_not_taken_for_independent_ones() -> None:
    values = np.random.default_rng(2).normal(size=100)
    prompts = np.arange(100)
    once = bootstrap_mean(values, **RESAMPLING, clusters=prompts)
    copied = bootstrap_mean(np.repeat(values, 9), **RESAMPLING, clusters=np.repeat(prompts, 9))
    naive = bootstrap_mean(np.repeat(values, 9), **RESAMPLING)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert copied.n == 100
    assert naive.high - naive.low == pytest.approx((once.high - once.low) / 3, rel=0.1)


def test_prompts_with_more_rows_weigh_more() -> None:
    found = bootstrap_mean(np.array([1.0, 1.0, 1.0, 0.0]), **RESAMPLING, clusters=np.array(["a", "a", "a", "b"]))
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)


def test_intervals_do_not_depend_on_how_resamples_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=50)
    whole = bootstrap_mean(values, **RESAMPLING)
    monkeypatch.setattr("rlhf.gate.statistics.CHUNK", 700)
    assert bootstrap_mean(values, **RESAMPLING) == whole


def test_ninety_percent_intervals_hold_the_truth_nine_times_in_ten() -> None:
    random, held = np.random.default_rng(4), 0
    for seed in range(600):
        found = bootstrap_mean(random.binomial(1, 0.55, 300), confidence=0.9, resamples=300, seed=seed)
        held += found.low <= 0.55 <= found.high
    assert 0.87 <= held / 600 <= 0.93


def test_ratio_of_sums_is_not_the_mean_of_ratios() -> None:
    found = bootstrap_ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]), **RESAMPLING)
    assert (found.value, found.low, found.high) == (2.5, 1.0, 3.0)


def test_a_tie_counts_one_half() -> None:
    points = win_points(np.array([2.0, 1.0, 0.0, 5.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0, 1.0]))
    found = win_rate(points, **RESAMPLING)
    assert (found.wins, found.ties, found.losses) == (2, 2, 1)
    assert found.value == pytest.approx(0.6)


def test_swapping_the_models_mirrors_the_win_rate_and_its_interval() -> None:
    random = np.random.default_rng(5)
    policy, reference = random.normal(0.3, 1, 200), random.normal(0, 1, 200)
    there, back = (win_rate(win_points(*pair), **RESAMPLING) for pair in ((policy, reference), (reference, policy)))
    assert (back.value, back.low, back.high) == pytest.approx((1 - there.value, 1 - there.high, 1 - there.low))
    assert (back.wins, back.ties, back.losses) == (there.losses, there.ties, there.wins)


def test_sign_test_counts_the_tail_of_the_binomial() -> None:
    assert sign_test(8, 2) == pytest.approx((45 + 10 + 1) / 1024)
    assert sign_test(0, 3) == pytest.approx(1.0)
    assert sign_test(3, 0) == pytest.approx(1 / 8)
    assert sign_test(0, 0) == 1.0


def test_no_failure_in_300_leaves_one_percent_possible() -> None:
    assert binomial_interval(0, 300, confidence=0.9).high == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-9)
    found = binomial_interval(7, 20, confidence=0.95)
    known = stats.binomtest(7, 20).proportion_ci(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=1e-9)
    assert binomial_interval(20, 20, confidence=0.95).high == 1.0


def test_paired_difference_equals_newcombes_method() -> None:
    """Airway hyper-responsiveness before and after a transplantation, 1, 1, 7 and 12 children (Fagerland, Lydersen and
    Laake 2014, Statistics in Medicine 33:2850): -0.507 to -0.026; without correlation it is the unpaired method."""
    before, after = (np.repeat(row, (1, 1, 7, 12)) for row in ((1, 1, 0, 0), (1, 0, 1, 0)))
    found = paired_difference(before, after, confidence=0.95)
    assert (found.value, found.low, found.high) == pytest.approx((-6 / 21, -0.507, -0.026), abs=5e-4)
    back = paired_difference(after, before, confidence=0.95)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    first, second = np.tile([1, 1, 0, 0], 25), np.tile([1, 0, 1, 0], 25)
    half = math.sqrt(2) * (0.5 - _wilson_of_half(100))
    assert paired_difference(first, second, confidence=0.95).high == pytest.approx(half)
    never = paired_difference(np.zeros(300), np.zeros(300), confidence=0.95)
    assert (never.low, never.high) == pytest.approx((-0.01264, 0.01264), abs=1e-5), "not a point, whatever happened"


def _wilson_of_half(n: int) -> float:
    return 0.5 - 1.959964 / (2 * math.sqrt(n + 1.959964**2))


def test_paired_differences_of_rare_events_are_covered() -> None:
    random, held = np.random.default_rng(5), 0
    for _ in range(1000):
        rare = random.random((2, 300)) < ((0.03,), (0.01,))
        rare |= random.random(300) < 0.02
        found = paired_difference(*rare, confidence=0.95)
        held += found.low <= 0.98 * 0.02 <= found.high
    assert 0.935 <= held / 1000 <= 0.99


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("rate", "alpha", "n"),
    [
        (0.52, 0.05, 3863),
        (0.55, 0.05, 617),
        (0.55, 0.025, 783),
        (0.575, 0.01, 444),
        (0.60, 0.05, 153),
        (0.65, 0.025, 85),
    ],
)
def test_sample_sizes_and_back(rate: float, alpha: float, n: int) -> None:
    assert sample_size(rate, alpha=alpha, power=0.8) == n
    assert detectable_rate(n, alpha=alpha, power=0.8) == pytest.approx(rate, abs=2e-4)


def test_the_sample_size_really_gives_the_power() -> None:
    n = sample_size(0.6, alpha=0.05, power=0.8)
    wins = np.random.default_rng(6).binomial(n, 0.6, 4000)
    found = np.mean([sign_test(int(won), int(n - won)) < 0.05 for won in wins])
    assert 0.74 <= found <= 0.83  # the exact test is a little shy of its level


def test_settling_size_doubles_the_data_fourfold() -> None:
    interval = bootstrap_mean(np.random.default_rng(7).normal(0.05, 1, 400), **RESAMPLING)
    at_half = settling_size(interval, interval.value - 0.05, interval.low, confidence=0.95, power=0.8)
    at_quarter = settling_size(interval, interval.value - 0.025, interval.low, confidence=0.95, power=0.8)
    assert at_half is not None
    assert at_quarter == pytest.approx(4 * at_half, abs=4)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert at_half == pytest.approx((z * 1.0 / 0.05) ** 2, rel=0.15)
    assert settling_size(interval, interval.value, interval.low, confidence=0.95, power=0.8) is None


def test_pairwise_accuracy_counts_equal_rewards_half() -> None:
    assert pairwise_accuracy(np.array([1.0, -1.0, 0.0, 2.0]), **RESAMPLING).value == 0.625


def test_calibration_by_hand() -> None:
    """Two bins of two pairs. sigmoid(0) = .5, sigmoid(1) = .731059, sigmoid(2) = .880797, sigmoid(3) = .952574.

    Lower bin: confidence (.5 + .731059) / 2 = .615529, right (.5 + 0) / 2 = .25. Upper: .916686 and 1.
    """
    bins, ece, brier = calibration(np.array([2.0, -1.0, 0.0, 3.0]), bins=2)
    assert [row.confidence for row in bins] == pytest.approx([0.615529, 0.916686], abs=1e-6)
    assert [row.accuracy for row in bins] == [0.25, 1.0]
    assert [row.count for row in bins] == [2, 2]
    assert ece == pytest.approx((0.615529 - 0.25) / 2 + (1 - 0.916686) / 2, abs=1e-6)
    assert brier == pytest.approx((0.119203**2 + 0.731059**2 + 0.25 + 0.047426**2) / 4, abs=1e-6)


def test_calibration_of_a_calibrated_and_of_a_boastful_model() -> None:
    random = np.random.default_rng(8)
    logits = random.normal(0, 2, 20000)
    margins = np.where(random.random(20000) < 1 / (1 + np.exp(-logits)), logits, -logits)
    assert calibration(margins)[1] < 0.01
    assert calibration(3 * margins)[1] > 0.08


def test_whatever_is_not_finite_is_refused() -> None:
    for bad in ([1.0, math.nan], [math.inf], []):
        with pytest.raises(ValueError, match=r"finite|shape"):
            bootstrap_mean(np.array(bad), **RESAMPLING)
    with pytest.raises(ValueError, match="1 of 2"):
        win_points(np.array([1.0, math.nan]), np.array([0.0, 0.0]))
