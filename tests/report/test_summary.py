"""The summary says what the reports say, and its examples follow their rule."""

import json
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.gate.records import DECISION, Interval
from rlhf.report.summary import finite_numbers, load_summary


def test_the_table_holds_sft_and_then_each_algorithm(workspace: Path) -> None:
    summary = load_summary(workspace)
    assert [row.model for row in summary.rows] == ["sft", "ppo", "dpo"]
    sft, _, dpo = summary.rows
    assert (sft.win_rate, sft.proxy_reward, sft.gold_reward, sft.kl, sft.length) == (
        None,
        -0.04,
        0.41,
        Interval(0.0, 0.0, 0.0, 400),
        21.9,
    )
    assert dpo.win_rate is not None
    assert (dpo.win_rate.value, dpo.win_rate.wins, dpo.proxy_reward, dpo.gold_reward) == (0.806, 318, 2.31, 0.87)
    assert (dpo.kl, dpo.length) == (Interval(14.2, 13.6, 14.9, 400), 16.4)
    assert (summary.decision.decision, summary.decision.winner) == ("PROMOTE", "dpo")


def test_stages_come_in_the_order_of_the_pipeline(workspace: Path) -> None:
    stages = {stage.stage: stage.values for stage in load_summary(workspace).stages}
    assert list(stages) == [
        "collect",
        "validate",
        "screen",
        "base",
        "sft",
        "reward@overall",
        "referee",
        "align@ppo",
        "align@dpo",
        "evaluate@ppo",
        "evaluate@dpo",
    ]
    assert stages["sft"] == {"loss": 0.31, "accuracy.value": 0.74}


def test_without_a_winner_the_nearest_policy_answers(workspace: Path) -> None:
    path = workspace / DECISION
    decision = json.loads(path.read_text())
    decision |= {"decision": "REJECT", "winner": None}
    decision["candidates"]["ppo"]["win_rate"]["low"] = 0.99
    path.write_text(json.dumps(decision))
    assert {example.ours.model for example in load_summary(workspace).examples} == {"ppo"}


def test_what_was_not_measured_is_none(workspace: Path) -> None:
    path = workspace / "reports/evaluate/dpo/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gold_reward": None, "kl": None}))
    row = load_summary(workspace).rows[2]
    assert (row.gold_reward, row.kl) == (None, None)


@pytest.mark.parametrize("name", ["gate/decision.json", "evaluate/ppo/metrics.json", "evaluate/dpo/rows/rows.parquet"])
def test_a_missing_report_is_named(workspace: Path, name: str) -> None:
    (workspace / "reports" / name).unlink()
    with pytest.raises(DataError, match=name):
        load_summary(workspace)


@pytest.mark.parametrize("content", ["{", "[]", '{"decision": "PROMOTE"}', "\x00"])
def test_a_broken_decision_is_named(workspace: Path, content: str) -> None:
    (workspace / DECISION).write_text(content)
    with pytest.raises(DataError, match=r"decision\.json"):
        load_summary(workspace)


def test_finite_numbers_keep_nothing_else() -> None:
    nested = {"a": 1, "b": {"c": 0.5, "d": "x", "e": None, "f": True, "g": float("nan")}}
    assert finite_numbers(nested) == {"a": 1.0, "b.c": 0.5}
