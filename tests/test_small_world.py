"""The default example from an empty directory to the gate, shortened: every stage for real, by the user's command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf.manifest import digest
from rlhf.tracking.journal import read
from tests.conftest import wait_until

SHORT = {
    "world.demonstrations": 500,
    "world.prompts": 700,
    "world.texts": 300,
    "world.comparisons": 60,
    "world.ratings": 60,
    "world.thumbs": 60,
    "world.rankings": 60,
    "base.model.epochs": 0.5,
    "base.model.hidden_size": 32,
    "sft.epochs": 1.0,
    "sample.prompts": 300,
    "reward.epochs": 1.0,
    "align.ppo.iterations": 2,
    "align.ppo.rollout.prompts": 64,
    "align.dpo.epochs": 1.0,
    "evaluate.prompts": 60,
    "evaluate.safety_prompts": 40,
    "evaluate.diversity_prompts": 10,
    "evaluate.judge_pairs": 40,
    "evaluate.serving.rounds": 1,
    "gate.bootstrap": 200,
    "sft.loop.micro_batch_size": 8,
    "sft.loop.checkpoint_every": 4,
    "reward.loop.checkpoint_every": 4,
    "align.ppo.loop.checkpoint_every": 2,
    "align.dpo.loop.checkpoint_every": 4,
}
STAGES = 14
TABLES = {"prompts": "data/clean/prompts", "safety": "reports/evaluate/dpo/rows/safety"}
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "RLHF_"))}


def rlhf(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlhf", *arguments]
    return subprocess.run(
        command, cwd=workspace, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace in which the whole pipeline has run once."""
    directory = tmp_path_factory.mktemp("small")
    made = rlhf(directory, "init", "world", "--example", "small-world")
    assert made.returncode == 0, made.stderr
    workspace = directory / "world"
    stages = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(stages.replace("retries: 2}", "retries: 2, retry_delay: 0.1}"))
    settings = [word for key, value in SHORT.items() for word in ("-S", f"{key}={value}")]
    try:
        first = rlhf(workspace, "run", *settings)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "Traceback" not in first.stdout + first.stderr
        assert first.stdout.count("✓") >= STAGES
        yield workspace
    finally:
        assert rlhf(workspace, "down").returncode == 0


pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_small_world_runs_from_feedback_to_the_gate(world: Path) -> None:
    decision = json.loads((world / "reports/gate/decision.json").read_text())
    assert decision["decision"] in {"PROMOTE", "REJECT", "INCONCLUSIVE"}
    assert set(decision["candidates"]) == {"ppo", "dpo"}
    for name in ("ppo", "dpo"):
        serving = json.loads((world / f"reports/evaluate/{name}/metrics.json").read_text())["serving"]
        assert (serving["same"], serving["reason"]) == (16, "")
    named = {check["name"]: check for check in decision["candidates"]["dpo"]["checks"]}
    for check in ("file_format", "lineage", "unseen_conversations", "serves", "parity"):
        assert named[check]["passed"], named[check]["reason"]
    assert (world / "reports/report.html").stat().st_size > 10_000
    why = (world / "reports/gate.html").read_text(encoding="utf-8")
    assert digest(world / "reports/gate/decision.json") in why

    rows = {name: pq.read_table(world / f"{path}.parquet").to_pylist() for name, path in TABLES.items()}
    trained = {row["id"] for row in rows["prompts"] if row["split"] != "test"}
    assert [row["kind"] for row in rows["safety"]] == ["harmful"] * 40 + ["borderline"] * 40
    assert not trained & {row["prompt_id"] for row in rows["safety"]}, "nothing trained on what safety is measured by"

    again = rlhf(world, "run")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("up to date") == STAGES

    tree = json.loads(rlhf(world, "lineage", "dpo", "--json").stdout)
    assert tree["stage"] == "align@dpo"
    assert {"models/sft", "models/reward/overall", "data/judgements"} <= {child["name"] for child in tree["children"]}


@dataclass
class Victim:
    """A stage that is killed at a checkpoint: its process, which is tried again, or the run, which is started again."""

    stage: str
    program: str
    model: str
    whole_run: bool


VICTIMS = [
    Victim("sft", "tasks.sft", "models/sft", False),
    Victim("reward@overall", "tasks.reward overall", "models/reward/overall", True),
    Victim("align@ppo", "tasks.align ppo", "models/policy/ppo", False),
    Victim("align@dpo", "tasks.align dpo", "models/policy/dpo", True),
]


def test_killed_stages_resume_and_end_with_the_same_bits(world: Path) -> None:
    """kill -9 of a stage, or of `rlhf run`, in the middle of each training."""
    expected = {victim.model: digest(world / victim.model) for victim in VICTIMS}
    forget(world, [victim.stage for victim in VICTIMS])
    waiting, journals, run = VICTIMS.copy(), dict[str, Path](), start(world)
    while waiting:
        victim, process, work = next_checkpoint(world, waiting)
        waiting.remove(victim)
        journals[victim.stage] = work / "journal.jsonl"
        if victim.whole_run:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            wait_until(lambda: not process.is_running(), f"the end of {victim.stage} with its run")  # noqa: B023
            assert not (world / victim.model).exists()
            run = start(world)
        else:
            process.kill()
    assert run.wait(timeout=200) == 0
    assert {model: digest(world / model) for model in expected} == expected
    for stage, journal in journals.items():
        assert first_step_of_last_start(journal) > 0, f"{stage} began again instead of resuming"


def test_two_processes_learn_what_one_does(world: Path, tmp_path: Path) -> None:
    """Data parallelism on the CPU; the last step of an epoch has fewer micro-batches than processes."""
    for name in ("dvc.yaml", "params.yaml", "code.json"):
        shutil.copy(world / name, tmp_path)
    for name in ("data/clean", "models/base"):
        shutil.copytree(world / name, tmp_path / name)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "tasks.sft"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    one, two = (load_file(path / "models/sft/model.safetensors") for path in (world, tmp_path))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"base", "sft"}


def start(workspace: Path) -> subprocess.Popen[bytes]:
    """`rlhf run`, which goes on."""
    command = [sys.executable, "-m", "rlhf", "run"]
    return subprocess.Popen(command, cwd=workspace, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)


def next_checkpoint(workspace: Path, victims: list[Victim]) -> tuple[Victim, psutil.Process, Path]:
    """Wait until one of the stages trains and has a checkpoint: it, its process and its work directory."""
    found: list[tuple[Victim, psutil.Process, Path]] = []

    def look() -> bool:
        for work in {path.parent for path in workspace.glob(".work/*/step-*")}:
            stage = next(read(work / "journal.jsonl"))["stage"]
            for victim in (victim for victim in victims if victim.stage == stage):
                found.extend((victim, process, work) for process in processes(workspace, victim.program))
        return found != []

    wait_until(look, f"a checkpoint of one of {[victim.stage for victim in victims]}", seconds=120)
    return found[0]


def forget(workspace: Path, stages: list[str]) -> None:
    """Delete the outputs of stages, what DVC's cache holds of them, and the run-cache: they must be made again."""
    made = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]
    for out in (out for stage in stages for out in made[stage]["outs"]):
        path = workspace / out["path"]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (workspace / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()
    shutil.rmtree(workspace / ".dvc/cache/runs")


def processes(workspace: Path, program: str) -> list[psutil.Process]:
    """The processes that run a program of this workspace."""

    def matches(process: psutil.Process) -> bool:
        try:
            return process.cmdline()[1:] == ["-m", *program.split()] and process.cwd() == str(workspace)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if matches(process)]


def first_step_of_last_start(journal: Path) -> int:
    """The step at which the last attempt of a stage began to train."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in journal.read_text().splitlines()]
    start = max(number for number, line in enumerate(lines) if line["kind"] == "start")
    return next(line["step"] for line in lines[start:] if line["kind"] == "metrics")


def test_compare_trains_from_one_sft_model_and_leaves_the_workspace_as_it_was(world: Path) -> None:
    params, sft = (world / "params.yaml").read_bytes(), digest(world / "models/sft")
    asked = ("--seeds", "2", "--snapshots", "2", "--noise-steps", "2")
    done = rlhf(world, "compare", "-a", "kto", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((world / "reports/compare.json").read_text())
    assert [(trial["algorithm"], trial["seed"]) for trial in data["trials"]] == [("kto", 0), ("kto", 1)]
    assert [line["trials"] for line in data["lines"]] == [2]
    first, second = data["trials"]
    assert first["kl"] != second["kl"]
    for trial in data["trials"]:
        assert trial["seconds"] > 0
        assert trial["peak_memory"] > 1e8
        kl = [place["kl"]["value"] for place in trial["path"]]
        assert len(kl) == len(set(kl)) == 3
        assert kl[-1] == trial["kl"], "the path ends at the policy"
        assert trial["path"][-1]["gold"]["value"] == pytest.approx(trial["gold_gain"], abs=1e-4)
    noise = json.loads((world / "reports/align/kto/metrics.json").read_text())["gradient_noise"]
    assert noise["steps"] == 2
    assert noise["variance"] > 0
    key = json.loads((world / "models/policy/kto/receipt.json").read_text())["key"]
    end = json.loads((world / ".work" / key / "journal.jsonl").read_text().splitlines()[-1])
    assert 0 < end["aside"] < end["seconds"]
    assert (world / "params.yaml").read_bytes() == params
    assert digest(world / "models/sft") == sft
    assert "<svg" in (world / "reports/compare.html").read_text()
