"""Stages before which a launcher of several processes stands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlhf.config.editing import set_params
from rlhf.errors import ConfigError
from rlhf.pipeline.fingerprint import packages
from tasks import evaluate, sample
from tests.conftest import run_here

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_sample_what_one_does(workspace: Path, tmp_path: Path) -> None:
    """Each its half: after the first batch of two answers four of the eight are there."""
    set_params(workspace / "params.yaml", ["sample.batch_size=2", "sample.prompts=2", "sample.answers=4"])
    samples = workspace / "data/samples/samples.parquet"
    run_here(workspace, "sample", sample)
    one = pq.read_table(samples).to_pylist()
    assert [len(row["responses"]) for row in one] == [4, 4]
    shutil.rmtree(samples.parent)
    events = tmp_path / "events.jsonl"
    environment = os.environ | packages() | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *TWO, "-m", "tasks.sample"],
        cwd=workspace,
        env=environment | {"RLHF_EVENTS": str(events)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert pq.read_table(samples).to_pylist() == one
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert next((event["done"], event["total"]) for event in told if event["event"] == "progress") == (4, 8)


def test_what_is_served_and_paid_for_is_asked_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(workspace / "params.yaml", ["align.algorithms=[kto]", "reward.criteria={overall: 1.0}"])
    for made in ("policy", "snapshots"):
        shutil.copytree(workspace / "models/sft", workspace / f"models/{made}/kto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start it without a launcher"):
        run_here(workspace, "evaluate@kto", evaluate)
