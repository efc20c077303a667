"""reports/report.html: what a run came to and why."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.gate.records import Decision
from rlhf.report import plots
from rlhf.report.examples import evaluation_rows
from rlhf.report.page import page
from rlhf.report.summary import Row, Summary, finite_numbers, read_json, summarize


@dataclass(frozen=True)
class TableRows:
    """What validate did with one table."""

    table: str
    rows: int
    kept: int
    quarantined: int
    reasons: str


def render_report(workspace: Path, decision: Decision, receipts: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, from the reports of a workspace, a decision and the receipts of the outputs it rests on, by path.

    Raises DataError for a report that is missing or broken. The same inputs give the same bytes.
    """
    summary = summarize(workspace, decision)
    validation = read_json(workspace / "reports/validate.json")
    return page(
        "report.html.j2",
        summary=summary,
        decision=decision,
        figures=figures(workspace, summary),
        tables=tables(validation),
        whole_set=finite_numbers(validation.get("set") or {}),
        alarms=read_json(workspace / "reports/screen.json").get("alarms", ()),
        receipts=receipts,
        inputs=inputs(receipts),
        versions=next((receipt.get("versions", {}) for receipt in receipts.values()), {}),
    )


def tables(validation: Mapping[str, Any]) -> list[TableRows]:
    """Rows kept and quarantined of each table, and why, the most frequent reason first."""
    found = []
    for table, counts in sorted((validation.get("tables") or {}).items()):
        reasons = sorted(counts["reasons"].items(), key=lambda item: (-item[1], item[0]))
        text = "; ".join(f"{reason}: {count:,}" for reason, count in reasons)
        found.append(TableRows(table, counts["rows"], counts["kept"], counts["quarantined"], text))
    return found


def inputs(receipts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Every input that a receipt names, with its digest, once."""
    return sorted({(path, digest) for receipt in receipts.values() for path, digest in receipt["inputs"].items()})


def figures(workspace: Path, summary: Summary) -> Iterator[plots.Figure]:
    """The plots for which there are numbers."""
    algorithms = [candidate.algorithm for candidate in summary.decision.candidates]
    reports, criteria = workspace / "reports", list(summary.rows[0].rewards) if summary.rows else []
    paths = {name: reports / name / "curves.csv" for name in ("base", "sft")}
    of = "reward {}" if len(criteria) > 1 else "reward"
    paths |= {of.format(name): reports / "reward" / name / "curves.csv" for name in criteria}
    paths |= {name: reports / "align" / name / "curves.csv" for name in algorithms}
    losses = {name: curves for name, path in paths.items() if (curves := read_curves(path, "step", "loss"))}
    if losses:
        yield plots.losses(losses)
    gained = gains(summary.rows)
    if gained:
        ways = {name: curves for name in algorithms if (curves := read_curves(paths[name], "kl", "reward"))}
        yield plots.reward_against_kl(gained, ways)
    tables = {name: reports / "reward" / name / "calibration.csv" for name in criteria}
    bins = {name: found for name, path in tables.items() if (found := read_curves(path, "confidence", "accuracy"))}
    if bins:
        yield plots.reward_calibration(bins)
    if algorithms:
        yield plots.lengths(answer_lengths(workspace, algorithms))


def gains(rows: Sequence[Row]) -> list[plots.Gain]:
    """What each policy gained over SFT, the first row."""
    found = []
    for row in rows[1:]:
        before = rows[0]
        if row.kl is None or row.proxy_reward is None or before.proxy_reward is None:
            continue
        known = row.gold_reward is not None and before.gold_reward is not None
        gold = row.gold_reward - before.gold_reward if known else None  # type: ignore[operator]
        found.append(plots.Gain(row.model, row.kl.value, row.proxy_reward - before.proxy_reward, gold))
    return found


def answer_lengths(workspace: Path, algorithms: Sequence[str]) -> dict[str, list[float]]:
    """Tokens of every answer on the test prompts, by model."""
    found: dict[str, list[float]] = {}
    for name in algorithms:
        rows = evaluation_rows(workspace, name, ["sft_length", "policy_length"])
        found.setdefault("sft", [row["sft_length"] for row in rows])
        found[name] = [row["policy_length"] for row in rows]
    return found


def read_curves(path: Path, *names: str) -> dict[str, list[float]]:
    """Columns of a curves file, without the rows in which one of them is empty or not finite.

    Nothing if the file is absent or lacks one of them.
    """
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(row.get(name) or "nan") for name in names] for row in csv.DictReader(file)]
    whole = [row for row in rows if all(map(math.isfinite, row))]
    return {name: list(column) for name, column in zip(names, zip(*whole, strict=True), strict=True)} if whole else {}
