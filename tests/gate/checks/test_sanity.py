"""Answers that repeat themselves are found."""

from collections.abc import Callable

import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, full, with_rows


@pytest.mark.parametrize(("repeated", "outcome"), [(0.115, "pass"), (0.125, "fail")])
def test_repetition_may_be_twice_that_of_others_and_a_little_more(
    repeated: float, outcome: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    others = {f"{side}_repetition": full(0.05) for side in ("sft", "champion")}
    spoiled = with_rows(evidence(), policy_repetition=full(repeated), **others)
    assert found(spoiled, thresholds, "repetition").outcome == outcome
