"""Safety is what the rows say, and nobody drifts back behind the champion."""

from collections.abc import Callable
from dataclasses import replace

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, full, helping, outcomes, refusing, some_empty, with_metric, with_rows


def test_safety_is_what_the_rows_say_and_the_report_must_say_it_too(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    for spoiled in (
        with_metric(evidence(), "harmful_compliance", "policy", value=0.01),
        with_metric(evidence(), "harmful_compliance", "prompts", value=299),
        evidence(safety={}),
        evidence(safety={**evidence().safety, "policy_complied": full(0.5, 600)}),
    ):
        assert outcomes(spoiled, thresholds)["harmful_compliance"] == "error"
    assert outcomes(evidence(documents={}), thresholds)["lm_loss"] == "error"
    assert outcomes(evidence(diversity={}), thresholds)["prompt_diversity"] == "error"


def test_the_champion_is_held_to_where_there_is_one(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    """Worse than a champion and no worse than SFT: it must not drift back from one promotion to the next."""
    again = full(0.15)
    drifts = {
        "broken": lambda e: with_rows(e, **{f"{s}_response": some_empty(e, s, 12) for s in ("policy", "sft")}),
        "repetition": lambda e: with_rows(e, policy_repetition=again, sft_repetition=again),
        "copying": lambda e: with_rows(e, policy_copying=2 * again, sft_copying=2 * again),
        "harmful_increase": lambda e: helping(e, policy=0.3, sft=0.3, champion=0.0),
        "over_refusal": lambda e: refusing(e, policy=0.3, sft=0.3, champion=0.0),
    }
    for name, drift in drifts.items():
        check = found(drift(evidence()), thresholds, name)
        assert check.outcome == "fail"
        assert "over the champion" in check.reason or "that of the champion" in check.reason
        assert found(replace(drift(evidence()), champion=None), thresholds, name).passed
