"""What a policy had gained over SFT at each place of its path, against its distance from SFT, the root of KL.

    R(d) = d (alpha - beta ln d),   d = sqrt(KL(policy || SFT))

is how the gold reward moves as reinforcement learning goes on against a fixed reward model: it rises, and falls again
where the policy has learned the model's errors (Gao, Schulman, Hilton 2023, arXiv:2210.10760, section 3.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.gate.records import Interval


@dataclass(frozen=True)
class Place:
    """A policy on the way of one training: estimates over the test prompts, the gains in mean reward over SFT."""

    kl: Interval  # nats a sequence
    proxy: Interval  # by the reward model
    gold: Interval | None

    @property
    def distance(self) -> float:
        """From SFT. An estimate of a KL near zero may lie below it."""
        return math.sqrt(max(self.kl.value, 0.0))


Path = Sequence[Place]  # of one training, in its order; it starts at SFT, which is not among them


def reach(path: Path) -> float:
    """The largest distance of a path."""
    return max((place.distance for place in path), default=0.0)


def gains_at(path: Path, distance: float) -> tuple[float, float | None] | None:
    """Gain in proxy and in gold reward where a path first is so far from SFT, on the line between the places around it.

    None where it never is; gold None where it is unknown.
    """
    far, proxy, gold = 0.0, 0.0, 0.0
    for place in path:
        here = place.gold.value if place.gold else math.nan
        if place.distance >= distance:
            share = (distance - far) / (place.distance - far) if place.distance > far else 1.0
            at = gold + share * (here - gold)
            return proxy + share * (place.proxy.value - proxy), None if math.isnan(at) else at
        far, proxy, gold = place.distance, place.proxy.value, here
    return None


@dataclass(frozen=True)
class Overoptimization:
    """R(d) = d (alpha - beta ln d), fitted to the gold gains of an algorithm."""

    alpha: float
    beta: float
    reached_kl: float  # the largest KL of the places it was fitted to
    peak_kl: float | None  # where R is highest; None when that is further than was reached, or nowhere

    def __call__(self, distance: float) -> float:
        """The gain at a distance above zero."""
        return distance * (self.alpha - self.beta * math.log(distance))

    def beyond_peak(self, distance: float) -> float:
        """How far the gain has fallen from its peak at a distance above zero; 0 before the peak, and without one."""
        if self.peak_kl is None or distance**2 <= self.peak_kl:
            return 0.0
        return self(math.sqrt(self.peak_kl)) - self(distance)


def fit(paths: Sequence[Path]) -> Overoptimization | None:
    """Least squares over all places with a known gold gain; None of fewer than three different distances above zero.

    dR/dd = 0 at d = exp(alpha / beta - 1), a peak where beta > 0.
    """
    known = [
        (place.distance, place.gold.value) for path in paths for place in path if place.gold and place.distance > 0
    ]
    if len({distance for distance, _ in known}) < 3:
        return None
    d, gains = np.array(known).T
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * np.log(d)], axis=1), gains, rcond=None)
    reached = float(d.max())
    peak = alpha / beta - 1 if beta > 0 else math.inf  # its ln d
    within = math.exp(2 * peak) if peak <= math.log(reached) else None
    return Overoptimization(float(alpha), float(beta), reached**2, within)
