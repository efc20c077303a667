"""reports/compare.html: the algorithms of one workspace side by side, each trained several times from one SFT model.

The lectures' table of comparison with figures in place of words. A trial is one training of one algorithm; the trials
of an algorithm differ in `align.seed` alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rlhf import durable
from rlhf.config import Config
from rlhf.config.algorithms import OnlineConfig
from rlhf.pipeline.receipt import RECEIPT
from rlhf.pipeline.stage import JOURNAL
from rlhf.report import plots
from rlhf.report.html import page, read_curves
from rlhf.report.summary import read_json
from rlhf.tracking.journal import read

FIGURES = ("win_rate", "proxy_gain", "gold_gain", "kl", "length", "distinct_2", "seconds", "peak_memory")
PAGE, DATA = Path("reports/compare.html"), Path("reports/compare.json")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of one algorithm, and its policy on the test prompts. None where nothing was measured."""

    algorithm: str
    seed: int
    win_rate: float | None  # against SFT
    proxy_gain: float  # in mean reward over SFT
    gold_gain: float | None
    kl: float  # nats a sequence
    length: float  # mean tokens an answer
    distinct_2: float | None  # relative to SFT's
    seconds: float | None  # of training
    peak_memory: float | None  # bytes


@dataclass(frozen=True)
class Spread:
    """A figure over the trials of an algorithm."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One algorithm of the table."""

    algorithm: str
    trials: int
    reward_model: bool  # whether it needs one
    critic: bool
    win_rate: Spread | None
    proxy_gain: Spread
    gold_gain: Spread | None
    gold_at_distance: Spread | None  # gold gain / sqrt(KL): what a unit of distance from SFT bought
    kl: Spread
    length: Spread
    distinct_2: Spread | None
    seconds: Spread | None
    peak_memory: Spread | None


def read_trials(workspace: Path, algorithms: Sequence[str], seed: int) -> list[Trial]:
    """What stands in the reports of a workspace whose policies were trained with `align.seed` = seed."""
    return [_trial(workspace, name, seed) for name in algorithms]


def _trial(workspace: Path, name: str, seed: int) -> Trial:
    metrics = read_json(workspace / "reports/evaluate" / name / "metrics.json")
    end = _end(workspace, name)
    proxy, gold, distinct = (metrics[key] for key in ("proxy_reward", "gold_reward", "distinct_2"))
    return Trial(
        algorithm=name,
        seed=seed,
        win_rate=metrics["win_rate"]["value"] if metrics["win_rate"] else None,
        proxy_gain=proxy["policy"] - proxy["sft"],
        gold_gain=gold["policy"] - gold["sft"] if gold else None,
        kl=metrics["kl"]["value"],
        length=metrics["length"]["policy"],
        distinct_2=distinct["policy"] / distinct["sft"] if distinct["sft"] else None,
        seconds=end.get("seconds"),
        peak_memory=end.get("peak_memory"),
    )


def _end(workspace: Path, name: str) -> Mapping[str, Any]:
    """How the training ended: the last record of its stage's journal; nothing where it was trained elsewhere."""
    receipt = read_json(workspace / "models/policy" / name / RECEIPT)
    journal = workspace / ".work" / receipt["key"] / JOURNAL
    ends = [record for record in read(journal) if record["kind"] == "end"] if journal.is_file() else []
    return ends[-1] if ends else {}


def lines(trials: Sequence[Trial], config: Config) -> list[Line]:
    """The table: a line for each algorithm, in the order of the trials."""
    found = []
    for name in dict.fromkeys(trial.algorithm for trial in trials):
        mine, section = [trial for trial in trials if trial.algorithm == name], getattr(config.align, name)
        figures: dict[str, Any] = {figure: spread([getattr(trial, figure) for trial in mine]) for figure in FIGURES}
        found.append(
            Line(
                algorithm=name,
                trials=len(mine),
                reward_model=isinstance(section, OnlineConfig),
                critic=hasattr(section, "value_coefficient"),
                gold_at_distance=spread([_at_distance(trial) for trial in mine]),
                **figures,
            )
        )
    return found


def _at_distance(trial: Trial) -> float | None:
    """None too where the policy went nowhere: an estimate of a KL near zero may be negative."""
    return trial.gold_gain / math.sqrt(trial.kl) if trial.gold_gain is not None and trial.kl > 0 else None


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and range; None where a trial has no figure."""
    known = [value for value in values if value is not None]
    return Spread(mean(known), min(known), max(known)) if len(known) == len(values) else None


def write(workspace: Path, trials: Sequence[Trial], config: Config) -> list[Line]:
    """Write the page and the figures behind it; return the table."""
    table = lines(trials, config)
    data = {"lines": [asdict(line) for line in table], "trials": [asdict(trial) for trial in trials]}
    durable.write_text(workspace / DATA, json.dumps(data, indent=1) + "\n")
    gains = [plots.Gain(t.algorithm, t.kl, t.proxy_gain, t.gold_gain) for t in trials]
    online = [line.algorithm for line in table if line.reward_model]
    curves = {name: read_curves(workspace / "reports/align" / name / "curves.csv", "kl", "reward") for name in online}
    durable.write_text(
        workspace / PAGE,
        page("compare.html.j2", [plots.reward_against_kl(gains, curves)], lines=table, trials=trials),
    )
    return table
