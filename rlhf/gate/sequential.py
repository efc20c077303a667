"""Inference that holds however often the verdicts are looked at while they come in."""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from rlhf.gate.records import Interval
from rlhf.gate.statistics import Array, cluster_means

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
STAKES, SHARES = (_NODES + 1) / 2, _WEIGHTS / 2  # quadrature of the uniform mixture over stakes between 0 and 1
LEAST = 1e-12  # the smallest win rate that is told from none


def log_evidence(points: Array, null: float) -> float:
    """log E_n: the evidence of points (n,), all in [0, 1], that their expectation is above `null`.

    E_n = integral over stakes l in (0, 1) of prod_{i <= n} (1 + l * (s_i / null - 1)); for null = 1/2 the factor is
    1 + l * (2 s_i - 1), a win multiplies by 1 + l, a loss by 1 - l. If no expectation is above `null`, given what came
    before, E is a supermartingale that starts at 1, so that it ever reaches 1 / alpha with probability at most alpha
    (Ville 1939): whoever rejects at E >= 1 / alpha may look after every point, and stop or go on as they like. Stakes
    are Waudby-Smith and Ramdas's (2020, https://arxiv.org/abs/2010.09686), mixed as Robbins did (1970) and not learned
    from the points: so E does not depend on their order, and a later look needs no record of the earlier ones.
    """
    growth = np.log1p(np.multiply.outer(STAKES, points / null - 1)).sum(axis=1)
    return float(special.logsumexp(growth, b=SHARES))


def confidence_sequence(points: NDArray, *, confidence: float, clusters: NDArray | None = None) -> Interval:
    """The mean of points (N,) in [0, 1], a tie 1/2, with an interval that may be looked at after every prompt.

    It holds every win rate that neither the evidence nor its mirror image refutes at (1 - confidence) / 2: with
    probability `confidence` the intervals of all looks hold the truth. Points of one cluster, a prompt, count as their
    mean.
    """
    points = cluster_means(points, clusters)
    return Interval(float(points.mean()), _lower(points, confidence), 1 - _lower(1 - points, confidence), len(points))


def _lower(points: Array, confidence: float) -> float:
    """The largest win rate that is refuted from below, where E falls to 2 / (1 - confidence)."""

    def excess(null: float) -> float:
        return log_evidence(points, null) + np.log((1 - confidence) / 2)

    return float(optimize.brentq(excess, LEAST, points.mean())) if points.any() and excess(LEAST) > 0 else 0.0
