"""A policy answers where it is served; its cost stops it in production alone."""

from collections.abc import Callable

import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, with_metric


def test_cost_stops_in_production_alone(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    slow = with_metric(evidence(), "serving", "cost", "latency_p95", value=0.0241)
    check = found(slow, thresholds, "serving_cost")
    assert (check.outcome, check.value, check.stops) == ("fail", pytest.approx(1.205), False)
    production = thresholds.model_copy(update={"profile": "production"})
    assert found(slow, production, "serving_cost").stops
    assert found(with_metric(slow, "serving", "cost", "latency_p95", value=0.0239), production, "serving_cost").passed
    unserved = with_metric(evidence(), "serving", "served", value=False)
    unserved = with_metric(unserved, "serving", "reason", value="no safetensors")
    assert "no safetensors" in found(unserved, production, "serves").reason
    for side in ((), ("champion",)):
        unknown = with_metric(evidence(), "serving", *side, "cost", value=None)
        check = found(unknown, production, "serving_cost")
        assert (check.outcome, check.stops) == ("unmeasured", True)
        assert not found(unknown, thresholds, "serving_cost").stops


def test_a_policy_that_was_asked_nothing_did_not_answer_alike(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    nothing = with_metric(evidence(), "serving", "prompts", value=0)
    assert found(with_metric(nothing, "serving", "same", value=0), thresholds, "parity").outcome == "fail"
