"""What the pipeline itself costs: the small example from nothing, a run with nothing to do, the time around the own
work of a stage, and the stages validate and screen on many comparisons. All of it real, with directories and servers
of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.costs import Cost
from benchmarks.feedback import write_comparisons
from rlhf.manifest import write_manifest
from rlhf.pipeline.fingerprint import packages
from rlhf.tracking.journal import stage_records

ROWS, FEW_ROWS = 1_000_000, 20_000
LIGHT = ("collect", "validate", "screen", "label", "gate")  # the stages without torch
SHORT = {
    "world.demonstrations": 300,
    "world.prompts": 500,
    "world.texts": 200,
    "base.model.hidden_size": 32,
    "base.model.epochs": 0.2,
    "sft.epochs": 0.2,
    "sample.prompts": 100,
    "reward.epochs": 0.2,
    "align.algorithms": "[dpo]",
    "align.dpo.epochs": 0.2,
    "evaluate.prompts": 40,
    "gate.bootstrap": 100,
}
OURS = ("PREFECT_", "MLFLOW_", "RLHF_")  # of the environment: the user's servers are not for this
GB = 10**9


def measure(repetitions: int, *, short: bool) -> list[Cost]:
    """All rows; `short`: of a smaller example, and of fewer comparisons."""
    rows = FEW_ROWS if short else ROWS
    checked = [_check(rows) for _ in range(repetitions)]
    with _workspace() as workspace:
        settings = [word for key, value in SHORT.items() for word in ("-S", f"{key}={value}")] if short else []
        first, stages = _run(workspace, *settings)
        around = {name: stage["seconds"] - _own_work(workspace, stage["key"]) for name, stage in stages.items()}
        again = [_run(workspace)[0] for _ in range(repetitions)]
    light = [seconds for name, seconds in around.items() if name in LIGHT]
    heavy = [seconds for name, seconds in around.items() if name not in LIGHT]
    return [
        Cost("first run of the small example, servers up", "s", [first]),
        Cost("run with nothing to do", "s", again, goal=6.0),
        Cost("around a stage without torch", "s", [mean(light)], goal=1.0),
        Cost("around a stage with torch, loading it included", "s", [mean(heavy)]),
        Cost(f"validate, {rows:,} comparisons", "s", [seconds for (seconds, _), _ in checked], goal=20.0),
        Cost(f"validate, {rows:,} comparisons: peak memory", "GB", [memory for (_, memory), _ in checked], goal=2.0),
        Cost(f"screen, {rows:,} comparisons", "s", [seconds for _, (seconds, _) in checked]),
    ]


@contextmanager
def _workspace() -> Iterator[Path]:
    """The small example with its servers up, which are stopped by what the workspace records of them."""
    with TemporaryDirectory(prefix="rlhf-bench-") as directory:
        workspace = Path(directory, "small")
        _rlhf(Path(directory), "init", str(workspace))
        try:
            _rlhf(workspace, "up")
            yield workspace
        finally:
            _rlhf(workspace, "down")


def _run(workspace: Path, *settings: str) -> tuple[float, Mapping[str, Any]]:
    """Seconds of `rlhf run`, and what it says of every stage."""
    began = time.perf_counter()
    said = _rlhf(workspace, "run", "--json", *settings)
    return time.perf_counter() - began, json.loads(said)["stages"]


def _own_work(workspace: Path, key: str) -> float:
    """Seconds from the stage's verified inputs to its published outputs, by its journal."""
    *_, end = stage_records(workspace, key)
    return float(end["seconds"])


def _check(rows: int) -> list[tuple[float, float]]:
    """Of validate's process, and of screen's: seconds and peak memory in GB."""
    with TemporaryDirectory(prefix="rlhf-bench-") as directory:
        workspace = Path(directory, "many")
        _rlhf(Path(directory), "init", str(workspace))
        raw = workspace / "data" / "raw"
        raw.mkdir(parents=True)
        write_comparisons(raw / "comparisons.parquet", rows)
        write_manifest(raw)
        return [_process(workspace, stage) for stage in ("validate", "screen")]


def _process(workspace: Path, stage: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of a stage's process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"tasks.{stage}"], cwd=workspace, env=_environment(), stderr=subprocess.PIPE
    )
    assert process.stderr
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{stage} ended with exit code {process.returncode}: {said}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / GB


def _rlhf(directory: Path, *arguments: str) -> str:
    """What a command of ours prints. Raises RuntimeError with its complaint."""
    command = [sys.executable, "-m", "rlhf", *arguments]
    done = subprocess.run(command, cwd=directory, env=_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"rlhf {' '.join(arguments)} ended with exit code {done.returncode}: {done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | packages()
