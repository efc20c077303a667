"""What a run came to, read from the reports of its stages: the table, the decision, three examples, the metrics."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.gate.records import Decision, Interval, WinRate, finite
from rlhf.pipeline.graph import load_graph
from rlhf.report.examples import Example, by_rule, evaluation_rows
from rlhf.tracking.outputs import flatten
from rlhf.tracking.standing import decided


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of the table; None where the stage could not measure it."""

    model: str  # "sft", or the algorithm
    win_rate: WinRate | None  # against SFT; None for SFT itself
    proxy_reward: float | None
    rewards: Mapping[str, float | None]  # by criterion, of which proxy_reward is the weighted sum
    gold_reward: float | None
    kl: Interval | None  # from SFT, nats a sequence, the mean
    length: float | None  # mean tokens an answer


@dataclass(frozen=True)
class StageMetrics:
    """The numbers of one stage's metrics file, nested keys joined by a dot."""

    stage: str  # as DVC names it: "align@dpo"
    values: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """All that the end of a run and the report show."""

    rows: tuple[Row, ...]  # SFT, then each algorithm in the order of params.yaml
    decision: Decision
    examples: tuple[Example, ...]
    stages: tuple[StageMetrics, ...]


def load_summary(workspace: Path) -> Summary:
    """Read the reports of a finished run. Raises DataError, which names the file that is missing or broken."""
    return summarize(workspace, decided(workspace).said)


def summarize(workspace: Path, decision: Decision) -> Summary:
    """The summary of the reports in `workspace` under a decision that need not be written yet."""
    algorithms = [candidate.algorithm for candidate in decision.candidates]
    evaluations = [read_json(workspace / "reports/evaluate" / name / "metrics.json") for name in algorithms]
    policies = [_policy_row(name, metrics) for name, metrics in zip(algorithms, evaluations, strict=True)]
    rows = (_sft_row(evaluations[0]), *policies) if evaluations else ()
    first = foremost(decision)
    return Summary(
        rows=rows,
        decision=decision,
        examples=by_rule(evaluation_rows(workspace, first), first) if first else (),
        stages=tuple(_stages(workspace)),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A report. Raises DataError where it is missing or is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist yet. Make it with: rlhf run") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}). Delete it and run again: rlhf run") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold an object, not {type(content).__name__}. Delete it and run again: rlhf run")
    return content


def foremost(decision: Decision) -> str | None:
    """The policy that is shown first: the winner, or the one that came nearest."""
    rated = [c for c in decision.candidates if c.win_rate is not None]
    best = max(rated, key=lambda c: c.win_rate.low if c.win_rate else 0.0, default=None)
    return decision.winner or (best.algorithm if best else None)


def _sft_row(metrics: Mapping[str, Any]) -> Row:
    """SFT's numbers: every evaluation measures it on the same prompts with the same seed."""
    return Row(
        model="sft",
        win_rate=None,
        proxy_reward=_side(metrics, "proxy_reward", "sft"),
        rewards=_rewards(metrics, "sft"),
        gold_reward=_side(metrics, "gold_reward", "sft"),
        kl=Interval(0.0, 0.0, 0.0, metrics["prompts"]),
        length=_side(metrics, "length", "sft"),
    )


def _policy_row(algorithm: str, metrics: Mapping[str, Any]) -> Row:
    win_rate, kl = metrics.get("win_rate"), metrics.get("kl")
    return Row(
        model=algorithm,
        win_rate=WinRate(**win_rate) if win_rate else None,
        proxy_reward=_side(metrics, "proxy_reward", "policy"),
        rewards=_rewards(metrics, "policy"),
        gold_reward=_side(metrics, "gold_reward", "policy"),
        kl=Interval(**kl) if kl else None,
        length=_side(metrics, "length", "policy"),
    )


def _side(metrics: Mapping[str, Any], key: str, side: str) -> float | None:
    return finite((metrics.get(key) or {}).get(side))


def _rewards(metrics: Mapping[str, Any], side: str) -> dict[str, float | None]:
    found = metrics.get("rewards") or {}
    return {criterion: _side(found, criterion, side) for criterion in found}


def _stages(workspace: Path) -> list[StageMetrics]:
    """The metrics files that are there, in the order of the pipeline."""
    found = []
    for stage in load_graph(workspace).stages:
        report = workspace / "reports" / stage.replace("@", "/")
        path = next((path for path in (report.with_suffix(".json"), report / "metrics.json") if path.exists()), None)
        if path is not None:
            found.append(StageMetrics(stage, finite_numbers(read_json(path))))
    return found


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of nested mappings, under their keys joined by a dot."""
    return {name: number for name, value in flatten(values) if (number := finite(value)) is not None}
