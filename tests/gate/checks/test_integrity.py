"""What is judged is what stands here, on prompts that nothing was trained on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, outcomes, with_metric, with_rows


@pytest.mark.parametrize(
    ("keys", "digest", "reason"),
    [
        (("models/sft", "digest"), "zz", "models/sft is zz by the evaluation and bb by the policy"),
        (("models/sft", "inputs", "models/base"), "", "the receipts lack models/base"),
        (
            ("data/judgements", "inputs", "data/clean"),
            "zz",
            "data/clean is ee by data/clean/demonstrations.parquet and zz by data/judgements",
        ),
        (
            ("models/sft", "inputs", "data/clean/demonstrations.parquet"),
            "zz",
            "data/clean/demonstrations.parquet is zz by models/sft and ed by the evaluation",
        ),
        (("data/clean/demonstrations.parquet", "inputs"), {}, "the receipts lack data/clean"),
        (("data/clean", "inputs"), {}, "the receipts lack data/raw"),
        (
            ("models/reward/overall", "inputs", "models/sft"),
            "zz",
            "bb by the evaluation and zz by models/reward/overall",
        ),
    ],
)
def test_a_chain_of_receipts_that_is_broken_is_named(
    keys: tuple[str, ...], digest: Any, reason: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    check = found(with_metric(evidence(), "lineage", *keys, value=digest), thresholds, "lineage")
    assert check.outcome == "fail"
    assert reason in check.reason


def test_two_reports_that_are_silent_do_not_agree(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    silent = with_metric(evidence(), "reference_digest", value=None)
    silent = with_metric(silent, "inputs", "models/sft", value=None, report="receipt")
    assert found(silent, thresholds, "reference_bytes").outcome == "fail"


def test_what_a_policys_directory_may_not_hold_is_named(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    bad = {"foreign": ["modeling.py", "x.pkl"], "code": ["config.json"], "same_template": False}
    check = found(with_metric(evidence(), "files", value=bad), thresholds, "file_format")
    assert check.reason == (
        "the policy's directory: holds modeling.py, holds x.pkl, config.json names code of its own, "
        "its chat template is not SFT's"
    )
    unknown = with_metric(evidence(), "files", value={"foreign": [], "code": []})
    assert outcomes(unknown, thresholds)["file_format"] == "error"


def test_an_unpinned_test_set_says_what_to_pin(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    unpinned = thresholds.model_copy(update={"test_set": None})
    warned = found(evidence(), unpinned, "test_set")
    assert (warned.outcome, warned.blocking) == ("undecided", False)
    assert "set gate.test_set of params.yaml to dd" in warned.reason
    strict = found(evidence(), unpinned.model_copy(update={"profile": "production"}), "test_set")
    assert (strict.outcome, strict.blocking) == ("undecided", True)
    assert found(evidence(uses=41), unpinned, "test_set").stops, "a set that is worn out stops in either profile"
    assert found(evidence(), thresholds.model_copy(update={"test_set": "zz"}), "test_set").stops
    assert found(evidence(uses=40), thresholds, "test_set").passed
    elsewhere = with_metric(evidence(), "prompts_digest", value="zz")
    assert found(elsewhere, thresholds, "test_set").stops, "the others were judged on what is pinned, this one was not"
    for sets in ({"dd", "ee"}, {None}, set[str]()):
        assert found(evidence(test_sets=sets), thresholds, "test_set").stops


def test_contaminated_prompts_are_named(evidence: Callable[..., Evidence], thresholds: GateConfig) -> None:
    read = np.isin(np.arange(400), [7, 11])
    check = found(with_rows(evidence(), seen=np.where(read, 0.8, 0.79)), thresholds, "contamination")
    assert (check.outcome, check.value) == ("pass", 0.005)
    assert check.reason.endswith(": p0007, p0011")
    strict = thresholds.model_copy(update={"profile": "production"})
    many = with_rows(evidence(), seen=np.where(np.arange(400) < 5, 1.0, 0.0))
    assert found(many, strict, "contamination").outcome == "fail", "1.25 % is more than 1 %"
    assert found(many, thresholds, "contamination").outcome == "pass"


def test_a_win_rate_against_the_champion_that_its_rows_do_not_give_is_found(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    check = found(with_metric(evidence(), "champion_win_rate", "value", value=0.9), thresholds, "rows_agree")
    assert check.outcome == "fail"
    assert check.reason.startswith("champion_win_rate is 0.")
