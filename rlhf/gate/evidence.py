"""What the checks look at, and how they read it: a number that is missing or not finite never passes for one."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.gate.records import Interval, finite

ROUNDING = 1e-5  # reports hold six significant digits


class Unusable(Exception):
    """Something that should be there is missing, mistyped or not finite: the check, and with it the gate, is ERROR."""


class Unmeasured(Exception):
    """Nobody could measure it here: no truth is known, or no prompt asks for it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything about one policy."""

    algorithm: str
    candidates: int  # policies in the run, of which the best may be promoted
    seed: int  # of the bootstrap: the same evidence always gives the same verdict
    evaluation: Mapping[str, Any]  # reports/evaluate/<algorithm>/metrics.json
    rows: Mapping[str, NDArray]  # columns (N,) of rows.parquet, a row a prompt
    safety: Mapping[str, NDArray]  # of safety.parquet, a row a request that is harmful or looks it; none: unmeasured
    diversity: Mapping[str, NDArray]  # of diversity.parquet, a row a prompt that was asked again and again
    documents: Mapping[str, NDArray]  # of documents.parquet, a row an unseen text; none: there is none
    base: Mapping[str, Any]  # reports/base/metrics.json
    sft: Mapping[str, Any]  # reports/sft/metrics.json
    align: Mapping[str, Any]  # reports/align/<algorithm>/metrics.json
    reward: Mapping[str, Mapping[str, Any]]  # reports/reward/<criterion>/metrics.json
    referee: Mapping[str, Any]  # reports/referee/metrics.json
    validation: Mapping[str, Any]  # reports/validate.json
    screening: Mapping[str, Any]  # reports/screen.json
    receipt: Mapping[str, Any]  # models/policy/<algorithm>/receipt.json
    policy_digest: str  # of the policy's files as they are now
    champion: str | None = None  # digest of the policy in use when the evaluation was made; None before the first
    uses: int  # looks at the test set besides those of this run: gate/looks.py
    sharing: range  # numbers of the looks at it that this one shares its chance of error with
    test_sets: Collection[str | None]  # digests of the prompts that the run's candidates were evaluated on


def number(values: Mapping[str, Any], *keys: str) -> float:
    """The finite number at nested `keys`. Raises Unusable, or Unmeasured where an outer key holds null."""
    found: Any = values
    for depth, key in enumerate(keys):
        if found is None and depth:
            raise Unmeasured(f"{'.'.join(keys[:depth])} could not be measured here")
        if not isinstance(found, Mapping) or key not in found:
            raise Unusable(f"{'.'.join(keys)} is missing from the report")
        found = found[key]
    value = finite(found)
    if value is None:
        raise Unusable(f"{'.'.join(keys)} is {found!r}, not a finite number")
    return value


def interval(values: Mapping[str, Any], *keys: str) -> Interval:
    """The interval at nested `keys`. Raises as `number` does."""
    value, low, high, n = (number(values, *keys, name) for name in ("value", "low", "high", "n"))
    return Interval(value, low, high, int(n))


def column(rows: Mapping[str, NDArray], name: str) -> NDArray[np.float64]:
    """A column (N,) of finite numbers. Raises Unusable, or Unmeasured where every value is NaN."""
    values = numbers(rows, name)
    if np.isnan(values).all():
        raise Unmeasured(f"{name} could not be measured here")
    if bad := int((~np.isfinite(values)).sum()):
        raise Unusable(f"column {name} of the evaluation's rows holds {bad} values that are not finite")
    return values


def numbers(rows: Mapping[str, NDArray], name: str) -> NDArray[np.float64]:
    """A column (N,) of numbers, of which some may be NaN. Raises Unusable."""
    if name not in rows:
        raise Unusable(f"the evaluation's rows have no column {name}")
    try:
        values = np.asarray(rows[name], dtype=np.float64)
    except (TypeError, ValueError):
        raise Unusable(f"column {name} of the evaluation's rows does not hold numbers") from None
    if not len(values):
        raise Unusable("the evaluation has no rows")
    return values


def texts(rows: Mapping[str, NDArray], name: str) -> list[str]:
    """A column (N,) of texts. Raises Unusable."""
    found = list(rows.get(name, ()))
    if not found or not all(isinstance(text, str) for text in found):
        raise Unusable(f"column {name} of the evaluation's rows holds no texts")
    return found


def prompt_ids(evidence: Evidence) -> NDArray[np.str_]:
    """The id (N,) of each row's prompt: rows of one prompt travel together. Raises Unusable."""
    return np.array(texts(evidence.rows, "prompt_id"))


def not_finite(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of numbers that are NaN or infinite, at any depth."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += not_finite(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            found += not_finite({str(n): one for n, one in enumerate(value)}, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(prefix + key)
    return found


def judged(evidence: Evidence, opponent: str) -> NDArray[np.float64]:
    """Points (N,) of the policy's answers against those of `opponent`, sft or champion, by the evaluation's judge:
    1 better, 1/2 as good, 0 worse.

    A comparison without a verdict is lost. Raises Unmeasured where it only waits for people, Unusable where no
    comparison has a verdict.
    """
    name = f"points_{opponent}"
    points = numbers(evidence.rows, name)
    absent = np.isnan(points)
    if absent.any() and evidence.evaluation.get("judge") == "people":
        raise Unmeasured(f"{absent.sum()} of {len(points)} comparisons with {opponent} wait for people")
    if absent.all():
        raise Unusable(f"the judge gave no verdict: column {name} of the evaluation's rows is empty")
    points = np.where(absent, 0.0, points)
    if bad := int((~np.isin(points, (0.0, 0.5, 1.0))).sum()):
        raise Unusable(f"column {name} of the evaluation's rows holds {bad} values that are no points")
    return points
