"""Win rate at equal length: what is left of a win rate when the judge's taste for length is taken out."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlhf.gate.records import Interval
from rlhf.gate.statistics import CHUNK, Array, owners

PRECISION = 0.1  # of the prior on either coefficient: a standard deviation of 3.2 on the scale of log odds
ITERATIONS, TOLERANCE, LONGEST_STEP = 100, 1e-9, 2.0


def length_controlled_win_rate(
    points: NDArray,
    longer: NDArray,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: NDArray | None = None,
) -> Interval:
    """Win rate at equal length from points (N,), 1 a win, 1/2 a tie, 0 a loss, and `longer` (N,), by how many tokens
    the policy's answer is longer.

    Bradley-Terry with length as a covariate, AlpacaEval's GLM without the difficulty of the instruction (Dubois et al.
    2024, https://arxiv.org/abs/2404.04475):

        logit P(win) = theta + phi * x,   x = tanh(longer / sd(longer)),   win rate at equal length = sigmoid(theta)

    Unlike Arena-Hard's z-scored (l - l') / (l + l'), x is zero at equal length and changes sign when the two models are
    swapped, so that a swap mirrors the result exactly; unlike the difference itself it is bounded.

    Both coefficients have a normal prior of precision `PRECISION`, which keeps them finite where every prompt is won.
    The percentile interval is that of a bootstrap over clusters with the model fitted anew in each replicate, where
    the prior is centred on a draw from itself (randomised priors: Osband et al. 2018, https://arxiv.org/abs/1806.03335)
    and, with the same rows, on the mirror image of that draw. Where lengths overlap this changes nothing. Where length
    alone could explain the wins, theta is what the prior makes of it, and the interval says so by its width.
    """
    points, longer = np.asarray(points, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    covariate = np.tanh(longer / (longer.std() or 1.0))
    owner = owners(clusters, len(points))
    n = int(owner.max()) + 1
    random = np.random.default_rng(seed)
    centres = random.normal(0.0, PRECISION**-0.5, (2, (resamples + 1) // 2))
    draws, rows = [], max(1, CHUNK // len(points))
    for start in range(0, centres.shape[1], rows):
        centre = centres[:, start : start + rows]
        weights = random.multinomial(n, np.full(n, 1 / n), size=centre.shape[1])[:, owner]
        draws += [fit(points, covariate, weights, centre * [[sign], [1]])[0] for sign in (1, -1)]
    theta, _ = fit(points, covariate, np.ones((1, len(points))), np.zeros((2, 1)))
    low, high = expit(np.quantile(np.concatenate(draws), [(1 - confidence) / 2, (1 + confidence) / 2]))
    return Interval(float(expit(theta[0])), float(low), float(high), n)


def fit(points: Array, covariate: Array, weights: NDArray, centres: Array) -> Array:
    """theta and phi (2, R) of R logistic regressions of points (N,) on covariate (N,) with weights (R, N), by Newton:

    maximise sum_i w_i (s_i log p_i + (1 - s_i) log(1 - p_i)) - PRECISION / 2 * |(theta, phi) - centres|^2.
    """
    found, square = np.zeros_like(centres), covariate**2
    for _ in range(ITERATIONS):
        chance = expit(found[0][:, None] + np.multiply.outer(found[1], covariate))
        missed, information = weights * (points - chance), weights * (chance * (1 - chance))
        slope = np.array([missed.sum(axis=1), missed @ covariate]) - PRECISION * (found - centres)
        a, b, c = information.sum(axis=1) + PRECISION, information @ covariate, information @ square + PRECISION
        steps = np.array([c * slope[0] - b * slope[1], a * slope[1] - b * slope[0]]) / (a * c - b * b)
        found += steps / np.maximum(np.abs(steps).max(axis=0) / LONGEST_STEP, 1.0)
        if np.abs(steps).max() < TOLERANCE:
            return found
    raise ArithmeticError(f"the length-controlled win rate did not converge in {ITERATIONS} Newton steps")
