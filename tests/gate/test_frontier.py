"""Gains along a path of known points, and the law of over-optimisation recovered from gains that follow it."""

import math

import pytest

from rlhf.gate.frontier import Place, fit, gains_at, reach
from rlhf.gate.records import Interval


def interval(value: float) -> Interval:
    return Interval(value, value - 0.1, value + 0.1, 500)


def place(kl: float, proxy: float, gold: float | None) -> Place:
    return Place(kl=interval(kl), proxy=interval(proxy), gold=None if gold is None else interval(gold))


def test_gains_are_read_between_the_places_of_a_path() -> None:
    path = [place(1.0, 2.0, 1.0), place(9.0, 4.0, 0.0), place(4.0, 9.0, 9.0)]
    assert reach(path) == 3.0
    assert gains_at(path, 0.5) == (1.0, 0.5), "between SFT and the first"
    assert gains_at(path, 1.0) == (2.0, 1.0)
    assert gains_at(path, 2.0) == (3.0, 0.5), "where the path is there first, not where it comes back"
    assert gains_at(path, 3.0) == (4.0, 0.0)
    assert gains_at(path, 3.01) is None
    assert gains_at([place(1.0, 2.0, None)], 0.5) == (1.0, None)
    assert gains_at([place(-1e-4, 0.3, 0.1), place(1.0, 2.0, 1.0)], 0.0) == (0.3, 0.1)


def following(alpha: float, beta: float, reached: float) -> list[Place]:
    distances = [reached * part / 5 for part in range(1, 6)]
    return [place(d * d, 0.0, d * (alpha - beta * math.log(d))) for d in distances]


def test_the_fit_recovers_the_law_that_gains_follow() -> None:
    peak = math.exp(2 * (0.5 / 0.4 - 1))  # 1.65 nats
    found = fit([following(0.5, 0.4, 1.0), following(0.5, 0.4, 3.0)])
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((0.5, 0.4), abs=1e-12)
    assert found.peak_kl == pytest.approx(peak, rel=1e-12)
    assert found.reached_kl == pytest.approx(9.0)
    top = found(math.sqrt(peak))
    assert top > max(found(math.sqrt(peak) - 0.01), found(math.sqrt(peak) + 0.01))


def test_past_the_peak_the_fall_is_counted_from_it() -> None:
    law = fit([following(0.5, 0.4, 3.0)])
    assert law is not None
    peak = math.exp(0.5 / 0.4 - 1)
    assert (law.beyond_peak(0.5), law.beyond_peak(peak)) == (0.0, 0.0)
    for distance in (1.5, 3.0):
        assert law.beyond_peak(distance) == pytest.approx(law(peak) - law(distance), abs=1e-12)
    rising = fit([following(0.5, 0.0, 3.0)])
    assert rising is not None
    assert rising.beyond_peak(3.0) == 0.0


@pytest.mark.parametrize(("alpha", "beta", "reached"), [(0.5, 0.4, 1.2), (0.5, 0.0, 3.0), (0.5, -0.1, 30.0)])
def test_a_peak_that_was_not_reached_is_none(alpha: float, beta: float, reached: float) -> None:
    found = fit([following(alpha, beta, reached)])
    assert found is not None
    assert found.peak_kl is None


def test_two_distances_and_unknown_gold_fit_nothing() -> None:
    assert fit([[place(1.0, 1.0, 0.4), place(4.0, 1.0, 0.7), place(0.0, 0.0, 0.0)], [place(4.0, 1.0, 0.6)]]) is None
    assert fit([[place(kl, 1.0, None) for kl in (1.0, 2.0, 3.0)]]) is None
