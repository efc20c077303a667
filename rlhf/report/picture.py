"""Where things lie in the picture of a gate: every check on one axis, its threshold in the middle, good on the right.

Checks have units of their own, from nats to shares, so each is measured in halves of its interval: a check that is just
decided touches the middle, and one that passes by 2 is as far again from it as its interval is wide.
"""

import math
from dataclasses import dataclass
from typing import Literal

from rlhf.gate.records import Check, Interval

REACH = 6.0  # halves of an interval that the picture shows to each side of the threshold
MIDDLE, HALF = 50.0, 44.0  # percent of the width: where the threshold is, and how far the reach extends from it

Kind = Literal["pass", "fail", "undecided", "warning", "unmeasured", "error"]


@dataclass(frozen=True)
class Mark:
    """A value with its interval, from left to right in percent of the picture's width."""

    low: float
    value: float
    high: float
    beyond: Literal["", "left", "right"] = ""  # the side on which it leaves the picture


def kind(check: Check) -> Kind:
    """How a check is drawn: its outcome, or a warning where it does not pass and stops nothing."""
    return "warning" if not check.passed and not check.blocking else check.outcome


def check_mark(check: Check) -> Mark | None:
    """Where a check lies; None without an interval or a threshold."""
    if check.value is None or check.low is None or check.high is None or check.threshold is None:
        return None
    half, side = (check.high - check.low) / 2, 1 if check.at_least else -1
    distances = [side * (number - check.threshold) for number in (check.low, check.value, check.high)]
    units = [
        distance / half if half else math.copysign(math.inf, distance) if distance else 0 for distance in distances
    ]
    low, value, high = units if check.at_least else units[::-1]
    beyond: Literal["", "left", "right"] = "right" if high > REACH else "left" if low < -REACH else ""
    return Mark(_place(low / REACH), _place(value / REACH), _place(high / REACH), beyond)


def part_mark(part: Interval) -> Mark:
    """Where a win rate lies between 0 and 1, one half in the middle."""
    return Mark(_place(2 * part.low - 1), _place(2 * part.value - 1), _place(2 * part.high - 1))


def part_limit(check: Check) -> float | None:
    """Where the threshold of a check of several win rates lies among them; None where it speaks of another number."""
    return None if check.threshold is None or check.low is None else _place(2 * check.threshold - 1)


def part_kind(part: Interval) -> Kind:
    """How a win rate is drawn: passed where the whole interval is above one half, failed where it is below."""
    return "pass" if part.low > 0.5 else "fail" if part.high < 0.5 else "undecided"


def _place(fraction: float) -> float:
    """Percent of the width at a fraction, from -1 to 1, of the reach; what is further away lies at its end."""
    return round(MIDDLE + HALF * min(max(fraction, -1.0), 1.0), 2)
