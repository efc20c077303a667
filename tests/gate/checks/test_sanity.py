"""Trainings that left out steps and answers that repeat themselves are found."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from tests.gate.spoiling import found, full, with_metric, with_rows


@pytest.mark.parametrize(("repeated", "outcome"), [(0.115, "pass"), (0.125, "fail")])
def test_repetition_may_be_twice_that_of_others_and_a_little_more(
    repeated: float, outcome: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    others = {f"{side}_repetition": full(0.05) for side in ("sft", "champion")}
    spoiled = with_rows(evidence(), policy_repetition=full(repeated), **others)
    assert found(spoiled, thresholds, "repetition").outcome == outcome


@pytest.mark.parametrize(
    ("report", "keys", "name"),
    [
        ("base", (), "the base"),
        ("sft", (), "SFT"),
        ("reward", ("overall",), "the reward model overall"),
        ("referee", (), "the referee"),
        ("align", (), "dpo"),
    ],
)
def test_one_of_twenty_steps_may_be_left_out_of_any_training_behind_the_policy(
    report: str, keys: tuple[str, ...], name: str, evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    for skipped, outcome in ((4, "pass"), (5, "fail"), (81, "error"), (-1, "error")):
        check = found(
            with_metric(evidence(), *keys, "skipped", value=skipped, report=report), thresholds, "skipped_steps"
        )
        assert check.outcome == outcome
    none = with_metric(evidence(), *keys, "steps", value=0, report=report)
    assert found(none, thresholds, "skipped_steps").reason == f"{name}.skipped is 0 of 0 steps, which is no share"


def test_a_base_that_others_trained_left_out_nothing_here(
    evidence: Callable[..., Evidence], thresholds: GateConfig
) -> None:
    assert found(replace(evidence(), base={"parameters": 7}), thresholds, "skipped_steps").outcome == "pass"
