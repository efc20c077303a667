"""reports/compare.html: the algorithms of one workspace side by side, each trained several times from one SFT model.

The lectures' table of comparison with figures in place of words. A trial is one training of one algorithm; the trials
of an algorithm differ in `align.seed` alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from rlhf import durable
from rlhf.config import Config
from rlhf.config.algorithms import OnlineConfig
from rlhf.gate.frontier import Overoptimization, Place, fit, gains_at, reach
from rlhf.gate.records import Interval
from rlhf.gate.statistics import resampling, win_rate
from rlhf.manifest import RECEIPT
from rlhf.report import plots
from rlhf.report.examples import evaluation_rows
from rlhf.report.page import page
from rlhf.report.summary import read_json
from rlhf.tracking.journal import stage_records

FIGURES = ("gradient_noise", "proxy_gain", "gold_gain", "kl", "length", "distinct_2", "seconds", "peak_memory")
BELIEFS = ("distance", "sft_distance", "minority_margin", "majority_margin")
PAGE, DATA, PICTURE = (Path(f"reports/compare.{kind}") for kind in ("html", "json", "svg"))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of one algorithm, and its policy on the test prompts. None where nothing was measured."""

    algorithm: str
    seed: int
    gradient_noise: float | None  # tr Sigma / |G|^2 of a step before training; None where |G|^2 is not above zero
    wins: Mapping[str, float] = field(repr=False)  # by prompt: 1 better than SFT, 1/2 as good, 0 worse
    proxy_gain: float  # in mean reward over SFT
    gold_gain: float | None
    kl: float  # nats a sequence
    length: float  # mean tokens an answer
    distinct_2: float | None  # relative to SFT's
    seconds: float | None  # of the stage's last process, without the measurement of the gradient's noise
    peak_memory: float | None  # bytes
    path: Sequence[Place]  # the way there, which ends at the policy
    beliefs: Mapping[str, Interval]  # of BELIEFS, those that are known
    groups: Mapping[str, float]  # of people: the share of the pairs that each ranked which the policy orders as it does


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
    gradient_noise: Spread | None
    win_rate: Interval  # of all trials, with the interval over the prompts
    proxy_gain: Spread
    gold_gain: Spread | None
    kl: Spread
    proxy_at_equal_kl: Spread | None
    gold_at_equal_kl: Spread | None
    overoptimization: Overoptimization | None
    length: Spread
    distinct_2: Spread | None
    seconds: Spread | None
    peak_memory: Spread | None
    beliefs: Mapping[str, Spread | None]  # of BELIEFS
    groups: Mapping[str, Spread | None]  # by name


@dataclass(frozen=True)
class Comparison:
    """The table."""

    equal_kl: float  # the largest KL that every trial reached
    lines: Sequence[Line]  # in the order of the trials
    left_out: Mapping[str, str]  # algorithms whose data the workspace does not have, and what each lacks


def read_trials(workspace: Path, algorithms: Sequence[str], seed: int) -> list[Trial]:
    """What stands in the reports of a workspace whose policies were trained with `align.seed` = seed."""
    return [_trial(workspace, name, seed) for name in algorithms]


def _trial(workspace: Path, name: str, seed: int) -> Trial:
    metrics = read_json(workspace / "reports/evaluate" / name / "metrics.json")
    noise = read_json(workspace / "reports/align" / name / "metrics.json").get("gradient_noise")
    end = _end(workspace, name)
    proxy, gold, distinct = (metrics[key] for key in ("proxy_reward", "gold_reward", "distinct_2"))
    return Trial(
        algorithm=name,
        seed=seed,
        gradient_noise=noise["variance"] / noise["mean_square"] if noise and noise["mean_square"] > 0 else None,
        wins=_wins(workspace, name),
        proxy_gain=proxy["policy"] - proxy["sft"],
        gold_gain=gold["policy"] - gold["sft"] if gold else None,
        kl=metrics["kl"]["value"],
        length=metrics["length"]["policy"],
        distinct_2=distinct["policy"] / distinct["sft"] if distinct["sft"] else None,
        seconds=end["seconds"] - end["aside"] if end else None,
        peak_memory=end.get("peak_memory"),
        path=[_place(place) for place in metrics["path"]],
        beliefs=_beliefs(metrics["beliefs"]),
        groups={name: found["value"] for name, found in (metrics["groups"] or {}).items()},
    )


def _beliefs(found: Mapping[str, Any] | None) -> dict[str, Interval]:
    if found is None:
        return {}
    figures = {name: found[name] for name in ("minority_margin", "majority_margin")}
    figures |= {"distance": found["distance"]["policy"], "sft_distance": found["distance"]["sft"]}
    return {name: Interval(**figure) for name, figure in figures.items() if figure}


def _place(found: Mapping[str, Any]) -> Place:
    gold = Interval(**found["gold"]) if found["gold"] else None
    return Place(kl=Interval(**found["kl"]), proxy=Interval(**found["proxy"]), gold=gold)


def _wins(workspace: Path, name: str) -> dict[str, float]:
    """Points against SFT by prompt; a prompt without a verdict is lost."""
    rows = evaluation_rows(workspace, name, ["prompt_id", "points_sft"])
    return {row["prompt_id"]: float(np.nan_to_num(row["points_sft"])) for row in rows}


def _end(workspace: Path, name: str) -> Mapping[str, Any]:
    """How the training ended: the last record of its stage's journal; nothing where it was trained elsewhere."""
    receipt = read_json(workspace / "models/policy" / name / RECEIPT)
    ends = [record for record in stage_records(workspace, receipt["key"]) if record["kind"] == "end"]
    return ends[-1] if ends else {}


def compared(trials: Sequence[Trial], left_out: Mapping[str, str], config: Config) -> Comparison:
    """The table: a line for each algorithm that was trained."""
    distance = min(reach(trial.path) for trial in trials)
    groups = sorted({name for trial in trials for name in trial.groups})
    found = []
    for name in dict.fromkeys(trial.algorithm for trial in trials):
        mine, section = [trial for trial in trials if trial.algorithm == name], getattr(config.align, name)
        figures: dict[str, Any] = {figure: spread([getattr(trial, figure) for trial in mine]) for figure in FIGURES}
        gains = [gains_at(trial.path, distance) or (None, None) for trial in mine]
        found.append(
            Line(
                algorithm=name,
                trials=len(mine),
                reward_model=isinstance(section, OnlineConfig),
                critic=hasattr(section, "value_coefficient"),
                win_rate=_win_rate(mine, config),
                proxy_at_equal_kl=spread([proxy for proxy, _ in gains]),
                gold_at_equal_kl=spread([gold for _, gold in gains]),
                overoptimization=fit([trial.path for trial in mine]),
                beliefs={
                    name: spread([trial.beliefs[name].value if name in trial.beliefs else None for trial in mine])
                    for name in BELIEFS
                },
                groups={name: spread([trial.groups.get(name) for trial in mine]) for name in groups},
                **figures,
            )
        )
    return Comparison(distance**2, found, left_out)


def _win_rate(trials: Sequence[Trial], config: Config) -> Interval:
    """Over all answers of all trials. The trials answer the same prompts, which are therefore drawn whole."""
    points = [(prompt, point) for trial in trials for prompt, point in trial.wins.items()]
    prompts, values = zip(*points, strict=True)
    settings = resampling(config.gate, config.seed)
    found = win_rate(np.array(values), clusters=np.array(prompts), **settings)
    return Interval(found.value, found.low, found.high, len(set(prompts)))


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and range; None where a trial has no figure."""
    known = [value for value in values if value is not None]
    return Spread(mean(known), min(known), max(known)) if len(known) == len(values) else None


def write(workspace: Path, trials: Sequence[Trial], left_out: Mapping[str, str], config: Config) -> Comparison:
    """Write the page, the figures behind it, and its picture; return the table."""
    table = compared(trials, left_out, config)
    rows = [{name: value for name, value in asdict(trial).items() if name != "wins"} for trial in trials]
    durable.write_text(workspace / DATA, json.dumps(asdict(table) | {"trials": rows}, indent=1) + "\n")
    paths = {line.algorithm: [t.path for t in trials if t.algorithm == line.algorithm] for line in table.lines}
    fits = {line.algorithm: line.overoptimization for line in table.lines if line.overoptimization}
    frontier = plots.frontier(paths, fits, table.equal_kl)
    durable.write_text(workspace / PICTURE, frontier.alone())
    durable.write_text(
        workspace / PAGE,
        page("compare.html.j2", [frontier], table=table, trials=trials, confidence=config.gate.confidence),
    )
    return table
