"""Win rate at equal length and style: what is left of it when the judge's taste for these is taken out."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlhf.gate.records import Interval
from rlhf.gate.statistics import CHUNK, Array, owners, percentiles

PRECISION = 0.1  # of the prior on each coefficient: a standard deviation of 3.2 on the scale of log odds
ITERATIONS, TOLERANCE, LONGEST_STEP = 100, 1e-9, 2.0


def length_controlled_win_rate(
    points: NDArray,
    longer: NDArray,
    style: NDArray | None = None,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: NDArray | None = None,
) -> Interval:
    """Win rate at equal length and style from points (N,), 1 a win, 1/2 a tie, 0 a loss, `longer` (N,), by how many
    tokens the policy's answer is longer, and `style` (N, K), differences of other things that a judge may like.

    Bradley-Terry with length as a covariate, AlpacaEval's GLM without the difficulty of the instruction (Dubois et al.
    2024, https://arxiv.org/abs/2404.04475), and Chatbot Arena's style control beside it (gate/style.py):

        logit P(win) = theta + phi * tanh(longer / sd(longer)) + psi * sign(longer) + chi . tanh(style / sd(style))
        win rate at equal length and style = sigmoid(theta)

    The sign is for a judge who takes the longer answer by however little it is longer. Unlike Arena's z-scored
    differences all covariates are zero where the answers are equal and change sign when the two models are swapped, so
    that a swap mirrors the result exactly; unlike the difference of lengths itself they are bounded. What differs
    nowhere has no coefficient. What differs everywhere alike keeps its own: nobody knows what equality would give.

    All coefficients have a normal prior of precision `PRECISION`, which keeps them finite where every prompt is won.
    The percentile interval is that of a bootstrap over clusters with the model fitted anew in each replicate, where
    the prior is centred on a draw from itself (randomised priors: Osband et al. 2018, https://arxiv.org/abs/1806.03335)
    and, with the same rows, on the mirror image of that draw. Where lengths overlap this changes nothing. Where length
    or style alone could explain the wins, theta is what the prior makes of it, and the interval says so by its width.
    """
    points, longer = np.asarray(points, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    columns = [np.ones(len(longer)), _bounded(longer), np.sign(longer)]
    if style is not None:
        columns += [_bounded(difference) for difference in style.T if difference.any()]
    design = np.column_stack(columns)
    owner = owners(clusters, len(points))
    n = int(owner.max()) + 1
    random = np.random.default_rng(seed)
    centres = random.normal(0.0, PRECISION**-0.5, (design.shape[1], (resamples + 1) // 2))
    draws, rows = [], max(1, CHUNK // len(points))
    for start in range(0, centres.shape[1], rows):
        centre = centres[:, start : start + rows]
        weights = random.multinomial(n, np.full(n, 1 / n), size=centre.shape[1])[:, owner]
        mirrored = np.concatenate([-centre[:1], centre[1:]])
        draws += [fit(points, design, weights, middle)[0] for middle in (centre, mirrored)]
    theta, *_ = fit(points, design, np.ones((1, len(points))), np.zeros((design.shape[1], 1)))
    low, high = expit(percentiles(np.concatenate(draws), confidence))
    return Interval(float(expit(theta[0])), float(low), float(high), n)


def _bounded(differences: NDArray) -> Array:
    return np.tanh(differences / (differences.std() or 1.0))


def fit(points: Array, design: Array, weights: NDArray, centres: Array) -> Array:
    """Coefficients (P, R) of R logistic regressions of points (N,) on the design (N, P) with weights (R, N), by Newton:

    maximise sum_i w_i (s_i log p_i + (1 - s_i) log(1 - p_i)) - PRECISION / 2 * |coefficients - centres|^2.
    """
    found, size = np.zeros_like(centres), design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(ITERATIONS):
        chance = expit(found.T @ design.T)
        slope = (weights * (points - chance)) @ design - PRECISION * (found - centres).T
        information = (weights * (chance * (1 - chance))) @ products
        curvature = information.reshape(-1, size, size) + PRECISION * np.eye(size)
        steps = np.linalg.solve(curvature, slope[..., None])[..., 0].T
        found += steps / np.maximum(np.abs(steps).max(axis=0) / LONGEST_STEP, 1.0)
        if np.abs(steps).max() < TOLERANCE:
            return found
    raise ArithmeticError(f"the length-controlled win rate did not converge in {ITERATIONS} Newton steps")
