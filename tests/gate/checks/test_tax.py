"""Alignment must not cost what the model could do."""

from collections.abc import Callable

import numpy as np

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, full, with_metric, with_rows


def test_capability_is_about_the_prompts_that_have_a_right_answer(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    asked = evidence().rows["has_right_answer"]
    elsewhere = with_rows(evidence(), policy_correct=np.where(asked, 1.0, 0.0), sft_correct=full(1.0))
    check = found(elsewhere, thresholds, "capability")
    assert (check.outcome, check.value, check.n) == ("pass", 0.0, 200)
    assert found(with_rows(evidence(), has_right_answer=full(0.0)), thresholds, "capability").outcome == "unmeasured"
    unread = with_metric(evidence(documents={}), "documents", value=0)
    assert found(unread, thresholds, "lm_loss").outcome == "unmeasured"
