"""Krippendorff's alpha: how far annotators agree beyond chance, with any number of them and any judgement missing.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): alpha = 1 - D_o / D_e, from the coincidence matrix
o_ck = sum over units u of (pairs of values c, k that two annotators gave to u) / (m_u - 1), m_u the judgements of u.
"""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Metric = Literal["nominal", "ordinal"]


def krippendorff_alpha(units: pd.Series, values: pd.Series, metric: Metric) -> tuple[float | None, int]:
    """Alpha (1 is full agreement, 0 is chance), and the number of judgements that it rests on.

    `units` says what each judgement is about and `values` what it says; both have one entry a judgement. A unit with
    one judgement counts for nothing. Alpha is None when nothing was judged twice or when all values are the same.
    """
    unit, names = pd.factorize(units)
    value, categories = pd.factorize(values, sort=True)
    counts = np.zeros((len(names), len(categories)))
    np.add.at(counts, (unit, value), 1.0)
    sizes = counts.sum(axis=1)
    counts, sizes = counts[sizes > 1], sizes[sizes > 1]
    pairable = int(sizes.sum())
    weights = counts / (sizes - 1.0)[:, None]
    coincidences = weights.T @ counts - np.diag(weights.sum(axis=0))
    totals = coincidences.sum(axis=1)
    distances = _distances(totals, metric)
    expected = float(totals @ distances @ totals) / (totals.sum() - 1.0) if pairable else 0.0
    if expected == 0.0:
        return None, pairable
    return 1.0 - float((coincidences * distances).sum()) / expected, pairable


def _distances(totals: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Squared difference of two values: 0 or 1, or the number of judgements between them, both ends counted half."""
    if metric == "nominal":
        return 1.0 - np.eye(len(totals))
    middle = np.cumsum(totals) - totals / 2.0
    return (middle[:, None] - middle[None, :]) ** 2
