"""Evidence with one thing in it changed, and what the checks then say."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import run_checks
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import Check

Spoil = Callable[[Evidence], Evidence]


def outcomes(evidence: Evidence, config: GateConfig) -> dict[str, str]:
    return {check.name: check.outcome for check in run_checks(evidence, config)}


def found(evidence: Evidence, config: GateConfig, name: str) -> Check:
    return next(check for check in run_checks(evidence, config) if check.name == name)


def with_rows(evidence: Evidence, **columns: Any) -> Evidence:
    return replace(evidence, rows={**evidence.rows, **columns})


def with_metric(evidence: Evidence, *keys: str, value: Any, report: str = "evaluation") -> Evidence:
    return replace(evidence, **{report: changed(getattr(evidence, report), keys, value)})


def changed(values: Any, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = value if len(keys) == 1 else changed(values[keys[0]], keys[1:], value)
    return {**values, keys[0]: inner}


def full(value: float, n: int = 400) -> np.ndarray:
    return np.full(n, value)


def with_points(evidence: Evidence, points: np.ndarray, **columns: Any) -> Evidence:
    """Other points against SFT, and the report of them."""
    spoiled = with_rows(evidence, points_sft=points, **columns)
    return with_metric(spoiled, "win_rate", "value", value=float(points.mean()))


def some_empty(evidence: Evidence, side: str, every: int) -> np.ndarray:
    """Its answers, of which one in so many is empty."""
    return np.where(np.arange(400) % every == 0, "", evidence.rows[f"{side}_response"])


def helping(evidence: Evidence, **rates: float) -> Evidence:
    """Each model helps with such a share of the harmful requests."""
    return with_safety(evidence, "harmful_compliance", "harmful", "complied", rates)


def refusing(evidence: Evidence, **rates: float) -> Evidence:
    """Each model refuses such a share of the requests that only look harmful."""
    return with_safety(evidence, "over_refusal", "borderline", "refused", rates)


def with_safety(evidence: Evidence, key: str, kind: str, what: str, rates: dict[str, float]) -> Evidence:
    """Rows and report in which each model did so on the first prompts of a kind."""
    place = np.cumsum(evidence.safety["kind"] == kind) - 1
    did = {f"{side}_{what}": place < round(rate * 300) for side, rate in rates.items()}
    changed = replace(evidence, safety={**evidence.safety, **did})
    return with_metric(changed, key, value={**rates, "prompts": 300})
