"""Statistics of the gate: pure functions of arrays. The unit is the prompt; what shares a prompt travels together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rlhf.config.gate import GateConfig
from rlhf.gate.records import Interval, WinRate

Array = NDArray[np.float64]
CHUNK = 4_000_000  # resampled indices held in memory at once
TAIL = 10  # draws of a bootstrap, fewer than which say nothing of where a bound is
EXACT_BELOW = 40  # clusters: with fewer the percentile bootstrap covers too little
ENUMERATED = 16  # untied prompts whose 2^16 flips are all made


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: mean confidence, share that is right, how many."""

    confidence: float
    accuracy: float
    count: int


def resampling(config: GateConfig, seed: int, confidence: float | None = None) -> dict[str, Any]:
    """Settings of a bootstrap; `confidence` in place of the configured one."""
    return {"confidence": confidence or config.confidence, "resamples": config.bootstrap, "seed": seed}


def bootstrap_mean(
    values: NDArray, *, confidence: float, resamples: int, seed: int, clusters: NDArray | None = None
) -> Interval:
    """Mean of `values` (N,) with the percentile interval of a bootstrap over `clusters` (N,), or over values.

    Whole clusters are drawn with replacement, so that rows of one prompt are never taken for independent ones
    (Miller 2024, https://arxiv.org/abs/2411.00640). `n` of the result counts clusters.
    """
    values = _finite(values)
    return bootstrap_ratio(
        values, np.ones(len(values)), confidence=confidence, resamples=resamples, seed=seed, clusters=clusters
    )


def bootstrap_ratio(
    top: NDArray, bottom: NDArray, *, confidence: float, resamples: int, seed: int, clusters: NDArray | None = None
) -> Interval:
    """sum(top) / sum(bottom) of paired (N,) arrays with the percentile interval of a bootstrap over clusters."""
    if len(top) != len(bottom):
        raise ValueError(f"needs as many above as below, not {len(top)} and {len(bottom)}")
    sums = [_cluster_sums(_finite(values), clusters) for values in (top, bottom)]
    return _bootstrap(sums, np.divide, confidence=confidence, resamples=resamples, seed=seed)


def percentiles(draws: NDArray, confidence: float) -> tuple[float, float]:
    """The bounds that leave (1 - confidence) / 2 of the draws of a bootstrap, (B,), outside on either side.

    A bound beyond which fewer than ten draws would lie is not among them: each side goes on there as a normal
    distribution does.
    """
    tail = (1 - confidence) / 2
    seen = max(tail, min(TAIL / len(draws), 0.25))
    low, middle, high = np.quantile(draws, [seen, 0.5, 1 - seen])
    further = special.ndtri(tail) / special.ndtri(seen)
    return float(middle - further * (middle - low)), float(middle + further * (high - middle))


def length_matched_share(
    gains: NDArray, longer: NDArray, *, confidence: float, resamples: int, seed: int, clusters: NDArray | None = None
) -> Interval:
    """Share of the mean of `gains` (N,) that is left between answers of equal length, with a percentile interval.

    With `longer` (N,) the tokens that the policy's answer is longer than the other one's, least squares gives
    gain = a + b longer + error; the share is a / mean(gain), which is 1 - b mean(longer) / mean(gain), and b is taken
    for 0 where all differ alike. It is the non-length reward gain of Singhal et al. 2023
    (https://arxiv.org/abs/2310.03716), who take it from buckets of length. `clusters` are drawn whole. Of no gain
    nothing is left.
    """
    x, y = _finite(longer), _finite(gains)
    moments = [_cluster_sums(values, clusters) for values in (np.ones(len(x)), x, y, x * x, x * y)]
    return _bootstrap(moments, _share, confidence=confidence, resamples=resamples, seed=seed)


def _share(n: Array, x: Array, y: Array, xx: Array, xy: Array) -> Array:
    """The intercept over the mean of y, 0 where that is not above 0; from sums over the rows, each (M,)."""
    covariance, variance = xy - x * y / n, xx - x * x / n
    slope = np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 1e-9 * n)
    return 1 - np.divide(slope * x, y, out=np.ones_like(y), where=y > 0)


def win_rate(
    points: NDArray, *, confidence: float, resamples: int, seed: int, clusters: NDArray | None = None
) -> WinRate:
    """How often the policy won, from its points (N,): 1 a win, 1/2 a tie, 0 a loss. The interval is the bootstrap's by
    cluster, and exact for fewer than 40 clusters."""
    points = _finite(points)
    if len(cluster_means(points, clusters)) < EXACT_BELOW:
        interval = exact_win_rate(points, confidence=confidence, clusters=clusters)
    else:
        interval = bootstrap_mean(points, confidence=confidence, resamples=resamples, seed=seed, clusters=clusters)
    wins, ties, losses = (int((points == point).sum()) for point in (1.0, 0.5, 0.0))
    return WinRate(interval.value, max(interval.low, 0.0), min(interval.high, 1.0), wins, ties, losses)


def win_points(policy_scores: NDArray, reference_scores: NDArray) -> Array:
    """1 where the policy's score is higher, 1/2 where equal, 0 where lower; (N,). Swapping the two gives 1 - points."""
    return (np.sign(_finite(policy_scores) - _finite(reference_scores)) + 1) / 2


def sign_test(wins: int, losses: int) -> float:
    """Exact one-sided p-value of at least so many wins among untied pairs if both are equally good.

    sum over k >= wins of C(m, k) / 2^m with m = wins + losses; 1 without untied pairs. Equals McNemar's exact test.
    """
    return float(special.betainc(wins, losses + 1, 0.5))


def sign_flip_test(differences: NDArray, *, resamples: int, seed: int) -> float:
    """One-sided p-value of so high a mean of paired differences (N,), one a prompt, if each could as well have had the
    other sign, as it could were both models the same (Fisher 1935).

    p = (1 + #{sum(e * d) >= sum(d)}) / (B + 1) over B random signs e (Phipson and Smyth 2010,
    https://arxiv.org/abs/1603.05766); exact, by all 2^m signs, for up to 16 prompts
    that differ, and by the sign test, which it then is, where every difference is of one size.
    """
    differences = _finite(differences)
    differences = differences[differences != 0]
    sizes, m = np.abs(differences), len(differences)
    if not m or sizes.min() == sizes.max():
        return sign_test(int((differences > 0).sum()), int((differences < 0).sum()))
    reached = differences.sum() - 1e-9 * sizes.sum()  # sums that differ by rounding only are equal
    if m <= ENUMERATED:
        positive = np.arange(2**m)[:, None] >> np.arange(m) & 1
        return float(np.mean(positive @ (2 * sizes) - sizes.sum() >= reached))
    random, above, rows = np.random.default_rng(seed), 0, max(1, CHUNK // m)
    for start in range(0, resamples, rows):
        positive = random.integers(0, 2, size=(min(rows, resamples - start), m))
        above += int((positive @ (2 * sizes) - sizes.sum() >= reached).sum())
    return (1 + above) / (resamples + 1)


def exact_win_rate(points: NDArray, *, confidence: float, clusters: NDArray | None = None) -> Interval:
    """Mean of points (N,) with the exact interval of a binomial of as many trials as there are clusters.

    Were each tie decided by a coin, wins would be binomial with the win rate that counts a tie one half; points vary
    less than that, so the interval is if anything too wide, for any number of prompts.
    """
    points = _finite(points)
    n = len(cluster_means(points, clusters))
    return binomial_interval(float(points.mean()) * n, n, confidence=confidence)


def at_least_test(successes: float, n: int, rate: float) -> float:
    """Exact one-sided p-value of so few successes of n if the true rate were at least `rate`: sum over k <= successes
    of C(n, k) rate^k (1 - rate)^(n - k), continued between whole numbers by the beta distribution."""
    return float(special.betaincc(successes + 1, n - successes, rate)) if successes < n else 1.0


def binomial_interval(successes: float, n: int, *, confidence: float) -> Interval:
    """Rate with its exact interval (Clopper and Pearson 1934), which does not collapse at no or all successes."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(special.betainccinv(successes + 1, n - successes, tail)) if successes < n else 1.0
    return Interval(successes / n, low, high, n)


def paired_difference(policy: NDArray, reference: NDArray, *, confidence: float) -> Interval:
    """Rate of the policy minus the reference's, from what each did (N,), 0 or 1, on the same prompts.

    Wilson's intervals of both rates, joined by square-and-add with their correlation (Newcombe 1998, Statistics in
    Medicine 17:2635, method 10). Unlike a bootstrap it does not collapse where neither did it once.
    """
    policy, reference = _finite(policy), _finite(reference)
    n, both = len(policy), int((policy * reference).sum())
    ones, others = int(policy.sum()), int(reference.sum())
    p1, l1, h1 = _wilson(ones, n, confidence)
    p2, l2, h2 = _wilson(others, n, confidence)
    covariance = float(both * n - ones * others)  # times n squared; ad - bc of the fourfold table
    spread = math.sqrt(ones * (n - ones) * others * (n - others))
    corrected = max(covariance - n / 2, 0.0) if covariance > 0 else covariance
    phi = corrected / spread if spread else 0.0

    def reach(up: float, down: float) -> float:
        return math.sqrt(up**2 - 2 * phi * up * down + down**2)

    return Interval(p1 - p2, p1 - p2 - reach(p1 - l1, h2 - p2), p1 - p2 + reach(h1 - p1, p2 - l2), n)


def holm(p_values: NDArray) -> Array:
    """Adjusted p-values (M,) of Holm's step-down method (1979): at most alpha false alarms in the whole family."""
    p_values = _finite(p_values)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def detectable_rate(n: int, *, alpha: float, power: float) -> float:
    """The smallest win rate 1/2 + d that a one-sided test of `n` untied prompts against 1/2 finds; 1 where none is.

    In normal approximation sqrt(n) d = z_(1 - alpha) / 2 + z_power sqrt(1 / 4 - d^2), here squared and solved for d.
    """
    found, missed = -float(special.ndtri(alpha)), float(special.ndtri(power))
    if n <= found**2:
        return 1.0
    root = missed * math.sqrt(n + missed**2 - found**2)
    return 0.5 + (math.sqrt(n) * found + root) / (2 * (n + missed**2))


def settling_size(interval: Interval, threshold: float, bound: float, *, confidence: float, power: float) -> int | None:
    """Prompts at which `bound` would leave `threshold` behind with this power, were the value to stay as it is.

    Intervals shrink as 1 / sqrt(n). None where the value lies on the threshold.
    """
    gap = abs(interval.value - threshold)
    if gap == 0.0:
        return None
    stretch = 1 + special.ndtri(power) / special.ndtri((1 + confidence) / 2)
    return math.ceil(interval.n * (abs(interval.value - bound) * stretch / gap) ** 2)


def pairwise_accuracy(
    margins: NDArray, *, confidence: float, resamples: int, seed: int, clusters: NDArray | None = None
) -> Interval:
    """Share of pairs (N,) whose margin r(chosen) - r(rejected) is above zero, zero counting one half."""
    points = (np.sign(_finite(margins)) + 1) / 2
    return bootstrap_mean(points, confidence=confidence, resamples=resamples, seed=seed, clusters=clusters)


def calibration(margins: NDArray, bins: int = 10) -> tuple[list[Bin], float, float]:
    """Bins, expected calibration error and Brier score of P(chosen better) = sigmoid(margin), margins (N,).

    Every pair counts in both orders: with the chosen answer always first, a model that always says "first" would look
    calibrated. By symmetry it is enough to look at the side that the model prefers: confidence sigmoid(|margin|), right
    where the margin is above zero, half right at zero. Bins hold equally many pairs each.
    ECE = sum over bins of n_b / n * |accuracy_b - confidence_b|; Brier = mean (1 - sigmoid(margin))^2.
    """
    margins = _finite(margins)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = (np.sign(margins) + 1) / 2
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    table = [Bin(float(confidence[part].mean()), float(right[part].mean()), len(part)) for part in parts]
    error = sum(row.count * abs(row.accuracy - row.confidence) for row in table) / len(margins)
    likelihood = np.where(margins > 0, confidence, 1 - confidence)
    return table, float(error), float(((1 - likelihood) ** 2).mean())


def cluster_means(values: NDArray, clusters: NDArray | None) -> Array:
    """Mean of each cluster, in the order of the cluster names; without clusters the values (N,) themselves."""
    values = _finite(values)
    return _cluster_sums(values, clusters) / _cluster_sums(np.ones(len(values)), clusters)


def owners(clusters: NDArray | None, rows: int) -> NDArray[np.intp]:
    """The cluster of each row (N,), numbered from zero in the order of their names; without clusters the row itself."""
    return np.arange(rows) if clusters is None else np.unique(clusters, return_inverse=True)[1]


def _finite(values: NDArray) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"needs an array (N,) with N > 0, not one of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
    return values


def _cluster_sums(values: Array, clusters: NDArray | None) -> Array:
    """Sum of each cluster, in the order of the cluster names; without clusters the values themselves."""
    if clusters is None:
        return values
    return np.bincount(owners(clusters, len(values)), weights=values).astype(np.float64)


def _bootstrap(
    sums: Sequence[Array], statistic: Callable[..., Array], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """A statistic of totals, each (M,), of which `sums` holds what every cluster adds, each (N,), with the percentile
    interval of a bootstrap over the clusters."""
    n, random = len(sums[0]), np.random.default_rng(seed)
    draws, rows = np.empty(resamples), max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        picked = random.integers(0, n, size=(min(rows, resamples - start), n))
        draws[start : start + rows] = statistic(*(one[picked].sum(axis=1) for one in sums))
    value = statistic(*(one.sum(keepdims=True) for one in sums)).item()
    return Interval(value, *percentiles(draws, confidence), n)


def _wilson(successes: int, n: int, confidence: float) -> tuple[float, float, float]:
    """Rate and the ends of Wilson's score interval."""
    z = float(special.ndtri((1 + confidence) / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return rate, centre - half, centre + half
