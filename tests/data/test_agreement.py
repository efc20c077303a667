"""Alpha against published and hand-computed numbers, and against its definition."""

import itertools

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.agreement import Metric, krippendorff_alpha

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, missing data.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def alpha_of(observers: list[str], metric: Metric) -> tuple[float | None, int]:
    cells = [(unit, int(value)) for row in observers for unit, value in enumerate(row) if value != "."]
    units, values = zip(*cells, strict=True)
    return krippendorff_alpha(pd.Series(units), pd.Series(values), metric)


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_the_published_example(metric: Metric, published: float) -> None:
    alpha, judgements = alpha_of(OBSERVERS, metric)
    assert alpha == pytest.approx(published, abs=5e-4)
    assert judgements == 40


def test_by_hand() -> None:
    """Units {a, a}, {a, b}, {b, b}: coincidences aa 2, ab 1, ba 1, bb 2; totals 3, 3; D_o = 2/6, D_e = 18/30."""
    alpha, judgements = krippendorff_alpha(pd.Series([1, 1, 2, 2, 3, 3]), pd.Series(list("aaabbb")), "nominal")
    assert alpha == pytest.approx(1 - (2 / 6) / (18 / 30), abs=1e-12)
    assert judgements == 6


def test_full_agreement_and_nothing_to_compare() -> None:
    assert alpha_of(["123", "123"], "nominal")[0] == 1.0
    assert alpha_of(["123", "..."], "nominal") == (None, 0)
    assert alpha_of(["111", "111"], "nominal") == (None, 6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=6), st.sampled_from(["nominal", "ordinal"])
)
def test_against_the_definition(units: list[list[int]], metric: Metric) -> None:
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]

    def distance(one: int, other: int) -> float:
        if metric == "nominal":
            return float(one != other)
        low, high = sorted((one, other))
        between = sum(values.count(value) for value in range(low, high + 1))
        return (between - (values.count(low) + values.count(high)) / 2) ** 2

    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in pairable for a, b in itertools.permutations(unit, 2)
    ) / max(len(values), 1)
    expected = sum(distance(a, b) for a, b in itertools.permutations(values, 2)) / max(
        len(values) * (len(values) - 1), 1
    )
    cells = [(place, value) for place, unit in enumerate(units) for value in unit]
    alpha, judgements = krippendorff_alpha(
        pd.Series([place for place, _ in cells]), pd.Series([value for _, value in cells]), metric
    )
    assert judgements == len(values)
    assert alpha is None if expected == 0 else alpha == pytest.approx(1 - observed / expected, abs=1e-9)
