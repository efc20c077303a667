"""Checks of all units on one axis: the threshold in the middle, what passes on the right of it."""

from typing import Any

import pytest

from rlhf.gate.records import Check, Interval
from rlhf.report.picture import Mark, check_mark, kind, part_kind, part_limit, part_mark
from tests.report.conftest import made_decision


def check(value: float | None, low: float | None, high: float | None, threshold: float | None, **more: Any) -> Check:
    return Check(**{"outcome": "pass", "reason": "", **more}, value=value, low=low, high=high, threshold=threshold)


@pytest.mark.parametrize(
    ("made", "mark"),
    [
        (
            check(0.6, 0.5, 0.7, 0.5),
            Mark(50.0, 57.33, 64.67),
        ),  # the interval begins at the threshold: 1 half to its middle
        (check(0.6, 0.5, 0.7, 0.5, at_least=False), Mark(35.33, 42.67, 50.0)),  # and the same on the wrong side
        (check(3.0, 2.0, 5.0, 8.0, at_least=False), Mark(64.67, 74.44, 79.33)),  # lop-sided: right is what is lower
        (check(0.9, 0.8, 1.0, 0.35), Mark(83.0, 90.33, 94.0, "right")),  # only the end lies beyond
        (check(14.2, 13.7, 14.7, 40.0, at_least=False), Mark(94.0, 94.0, 94.0, "right")),
        (check(57.0, 56.0, 58.0, 40.0, at_least=False), Mark(6.0, 6.0, 6.0, "left")),
        (check(0.0, 0.0, 0.0, 0.0), Mark(50.0, 50.0, 50.0)),  # an interval without a width
        (check(0.1, 0.1, 0.1, 0.0), Mark(94.0, 94.0, 94.0, "right")),
    ],
)
def test_a_check_lies_in_halves_of_its_interval_from_its_threshold(made: Check, mark: Mark) -> None:
    assert check_mark(made) == mark


def test_what_has_no_interval_has_no_place() -> None:
    assert check_mark(check(None, None, None, None)) is None
    assert check_mark(check(1.0, None, None, 0.0)) is None
    assert check_mark(check(1.0, 0.0, 2.0, None)) is None


def test_an_outcome_is_on_its_side_of_the_line() -> None:
    drawn = [(kind(c), check_mark(c)) for candidate in made_decision().candidates for c in candidate.checks]
    sides = {(shape, mark.low >= 50, mark.high <= 50) for shape, mark in drawn if mark}
    assert sides == {
        ("pass", True, False),
        ("fail", False, True),
        ("undecided", False, False),
        ("warning", False, False),
    }


def test_a_win_rate_lies_between_nothing_and_all() -> None:
    assert part_mark(Interval(0.75, 0.5, 1.0, 9)) == Mark(50.0, 72.0, 94.0)
    assert part_mark(Interval(0.25, 0.0, 0.5, 9)) == Mark(6.0, 28.0, 50.0)
    assert part_limit(check(0.5, 0.46, 0.55, 0.45)) == 45.6
    assert part_limit(check(0.2, None, None, 0.05)) is None
    spans = [(0.51, 0.8), (0.2, 0.49), (0.5, 0.8), (0.2, 0.5)]
    assert [part_kind(Interval(0.5, *span, 9)) for span in spans] == ["pass", "fail", "undecided", "undecided"]
