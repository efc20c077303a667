"""Win rates at equal length and style: what a judge's taste for either adds is taken out."""

import math

import numpy as np
import pytest

from rlhf.gate.length_control import fit, length_controlled_win_rate
from rlhf.gate.style import style, style_differences


def made_length_bias(n: int, theta: float, phi: float, longer: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of n prompts under logit P = theta + phi * tanh(d / sd(d)), the policy longer by `longer` on average."""
    random = np.random.default_rng(seed)
    difference = random.normal(longer, 20, n)
    chance = 1 / (1 + np.exp(-(theta + phi * np.tanh(difference / difference.std()))))
    return (random.random(n) < chance) * 1.0, difference


def test_length_control_finds_the_win_rate_at_equal_length() -> None:
    points, longer = made_length_bias(5000, 0.4, 1.5, 15, seed=13)
    found = length_controlled_win_rate(points, longer, confidence=0.95, resamples=200, seed=0)
    assert points.mean() > 0.7
    assert found.value == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.02)
    assert found.low < 1 / (1 + math.exp(-0.4)) < found.high
    assert found.high - found.low < 0.06


def test_the_length_model_is_at_the_top_of_its_likelihood() -> None:
    """There the slopes are those of the prior; weights are repeated rows."""
    points, longer = made_length_bias(60, 0.5, -1.0, 5, seed=14)
    design = np.column_stack([np.ones(60), np.tanh(longer / longer.std()), np.sign(longer)])
    weights = np.random.default_rng(0).integers(0, 4, (3, 60))
    centres = np.array([[0.0, 1.0, -3.0], [0.0, 2.0, -5.0], [0.0, -1.0, 1.0]])
    found = fit(points, design, weights, centres)
    for row, (coefficients, centre) in enumerate(zip(found.T, centres.T, strict=True)):
        missed = points - 1 / (1 + np.exp(-(design @ coefficients)))
        slope = np.repeat(missed, weights[row]) @ np.repeat(design, weights[row], axis=0)
        assert slope == pytest.approx(0.1 * (coefficients - centre), abs=1e-8)


def test_a_judge_who_takes_the_longer_answer_by_however_little_is_seen_through() -> None:
    """Eight answers in ten are longer, by lengths that are far from normal, and 72 % of the longer ones are taken."""
    passed = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        longer = np.where(random.random(400) < 0.8, 1, -1) * np.round(1 + 3 * random.lognormal(0, 1, 400))
        points = (random.random(400) < np.where(longer > 0, 0.72, 0.28)) * 1.0
        found = length_controlled_win_rate(points, longer, confidence=0.95, resamples=300, seed=seed)
        passed += found.low > 0.5
    assert passed <= 1


def test_length_that_never_overlaps_leaves_the_win_rate_open() -> None:
    """Always longer: a ridge alone would give an interval as narrow as its prior is arbitrary."""
    points = np.repeat([1.0, 0.0], [300, 200])
    for longer in (np.full(500, 30.0), np.random.default_rng(15).normal(300, 10, 500)):
        found = length_controlled_win_rate(points, longer, confidence=0.95, resamples=500, seed=0)
        assert found.low < 0.2
        assert found.high > 0.8


def test_a_judge_of_length_alone_leaves_the_win_rate_open() -> None:
    longer = np.where(np.arange(400) % 3 > 0, 5.0, -5.0)
    found = length_controlled_win_rate((longer > 0) * 1.0, longer, confidence=0.95, resamples=500, seed=0)
    assert found.low < 0.4
    assert found.high > 0.7


@pytest.mark.parametrize("longer", [np.linspace(-1, 1, 400), np.zeros(400)])
def test_length_control_stands_separable_prompts(longer: np.ndarray) -> None:
    for points in ((longer > 0) * 1.0, np.ones(400), np.zeros(400)):
        found = length_controlled_win_rate(points, longer, confidence=0.95, resamples=200, seed=0)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_swapping_the_models_mirrors_the_win_rate_at_equal_length() -> None:
    points, longer = made_length_bias(300, 0.3, 1.0, 8, seed=16)
    there, back = (
        length_controlled_win_rate(*pair, confidence=0.95, resamples=300, seed=0)
        for pair in ((points, longer), (1 - points, -longer))
    )
    assert (back.value, back.low, back.high) == pytest.approx((1 - there.value, 1 - there.high, 1 - there.low))


def test_copied_rows_do_not_narrow_the_win_rate_at_equal_length() -> None:
    points, longer = made_length_bias(100, 0.3, 1.0, 8, seed=17)
    settings = {"confidence": 0.95, "resamples": 1000, "seed": 0}
    once = length_controlled_win_rate(points, longer, **settings)
    copied = length_controlled_win_rate(
        np.repeat(points, 9), np.repeat(longer, 9), **settings, clusters=np.repeat(np.arange(100), 9)
    )
    assert copied.n == 100
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)


def test_markdown_is_counted_outside_of_code() -> None:
    code = "```\n# no header\n- no item **or bold**\n```\n"
    text = f"# Plan\n\n1. **one** thing\n2. two\n  - a __third__\n\n{code}2 * 3 ** 2"
    assert style(text) == [1, 3, 2]
    assert style("## a\n#b\n-c\n```\n- in code that nobody closed") == [1, 0, 0]
    found = style_differences(["- a\n- b\n- c", "plain"], ["- a", "plain"])
    assert found.tolist() == [[0, 0.5, 0], [0, 0, 0]]


def test_answers_without_markdown_have_the_win_rate_at_equal_length_alone() -> None:
    points, longer = made_length_bias(300, 0.3, 1.0, 8, seed=18)
    settings = {"confidence": 0.95, "resamples": 300, "seed": 0}
    plain = length_controlled_win_rate(points, longer, style_differences(["a"] * 300, ["b"] * 300), **settings)
    assert plain == length_controlled_win_rate(points, longer, **settings)
    assert plain.value == pytest.approx(0.5421395516763643, abs=1e-12)


def test_a_taste_for_lists_is_taken_out_of_the_win_rate() -> None:
    """Six answers in ten have more items than the other one, one in ten fewer, and the judge likes items alone."""
    random = np.random.default_rng(19)
    items = np.sign(random.choice([-1, 0, 1], 2000, p=[0.1, 0.3, 0.6]))
    answers, others = (["- a\n- b" if side * n > 0 else "- a" for n in items] for side in (1, -1))
    points = (random.random(2000) < 1 / (1 + np.exp(-1.5 * items))) * 1.0
    longer = random.normal(0, 5, 2000)
    settings = {"confidence": 0.95, "resamples": 300, "seed": 0}
    assert length_controlled_win_rate(points, longer, **settings).low > 0.6
    found = length_controlled_win_rate(points, longer, style_differences(answers, others), **settings)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.1
    swapped = length_controlled_win_rate(1 - points, -longer, style_differences(others, answers), **settings)
    assert (swapped.value, swapped.low) == pytest.approx((1 - found.value, 1 - found.high))
