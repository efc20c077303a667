"""The sender as a process: beside others, beside a server that comes and goes, and beside a parent that dies."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import Exit
from rlhf.tracking.sender import sync
from rlhf.tracking.sent import load_sent
from rlhf.tracking.store import connect
from tests.conftest import wait_until
from tests.tracking.conftest import Server
from tests.tracking.stored import assert_agrees, points, runs_by_stage
from tests.tracking.workspace import GRAPH, MODEL_STAGES, STEPS, Workspace, make_workspace

ROOT = Path(__file__).parents[2]


def sender(made: Workspace, *options: str, **kwargs: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rlhf.tracking.sender", str(made.path), *options]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.integration
def test_another_empty_store_gets_the_same_models_once(workspace: Workspace, empty_store: Path) -> None:
    process = sender(workspace)
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == Exit.DONE
    before = load_sent(workspace.path).versions
    (workspace.path / "mlflow.db").unlink()
    shutil.copy(empty_store, workspace.path / "mlflow.db")
    shutil.rmtree(workspace.path / "mlartifacts")
    assert sync(workspace.path) == Exit.DONE
    assert load_sent(workspace.path).versions == before
    assert_agrees(workspace)


@pytest.mark.integration
def test_two_senders_at_once_make_everything_once(workspace: Workspace) -> None:
    both = [sender(workspace) for _ in range(2)]
    output = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert output == [("", ""), ("", "")], "no noise of MLflow or alembic"
    assert_agrees(workspace)


@pytest.mark.integration
def test_another_store_gets_everything(
    workspace: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sync(workspace.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("RLHF_EXPERIMENT", tmp_path.name)
    assert sync(workspace.path) == Exit.DONE
    store = connect(workspace.path)
    assert runs_by_stage(store).keys() == {*GRAPH, "pipeline"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("RLHF_EXPERIMENT")
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)


@pytest.mark.integration
def test_two_workspaces_at_once_have_runs_of_their_own_and_models_in_common(
    workspace: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same work up to the policy, done in two places at the same time."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("RLHF_EXPERIMENT", tmp_path.name)
    other = make_workspace(tmp_path / "other", beta=0.2, run="run-2")
    both = [sender(made) for made in (workspace, other)]
    output = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    store = connect(workspace.path)
    found = list(store.client.search_runs([store.experiment_id]))
    stages = [run for run in found if "dvc.stage" in run.data.tags]
    keys = sorted(run.data.tags["rlhf.stage_key"] for run in stages)
    assert keys == sorted([*workspace.keys.values(), *other.keys.values()])
    assert len({run.data.tags["rlhf.workspace"] for run in found}) == 2
    assert len(found) == len(keys) + 2
    for run in stages:
        assert [step for step, _, _ in points(store, run, "train/loss")] == list(range(STEPS)), run.data.tags
    ours = f"name LIKE '{store.prefix}-%'"
    digests = {v.tags["stage_key"]: v.tags["digest"] for v in store.client.search_model_versions(ours)}
    assert len(digests) == len(store.client.search_model_versions(ours)) == len(MODEL_STAGES) + 1
    for made in (workspace, other):
        assert {digests[made.keys[stage]] for stage in MODEL_STAGES} == {
            made.digests[GRAPH[stage][0]] for stage in MODEL_STAGES
        }


@pytest.mark.integration
def test_the_sender_ends_with_its_parent(workspace: Workspace) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-m', 'rlhf.tracking.sender', {str(workspace.path)!r}, '--follow']\n"
        "child = subprocess.Popen(command, stdin=open(sys.argv[1]))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    never_ends = workspace.path / "pipe"
    subprocess.run(["mkfifo", str(never_ends)], check=True)
    with open(never_ends, "r+b", buffering=0):
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(never_ends)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip() / "stat"
        wait_until(lambda: bool(load_sent(workspace.path).journals), "the first pass", 60.0)
        parent.kill()
        parent.wait()
        wait_until(lambda: not child.exists() or ") Z " in child.read_text(), "the sender's end")
