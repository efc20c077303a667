"""The sender as a process: beside others, beside a server that comes and goes, and beside a parent that dies."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import Exit
from rlhf.tracking.journal import Journal
from rlhf.tracking.sender import sync
from rlhf.tracking.sent import load_sent
from rlhf.tracking.store import connect
from tests.conftest import wait_until
from tests.tracking.conftest import Server
from tests.tracking.stored import assert_agrees, points, runs_by_stage
from tests.tracking.workspace import GRAPH, TIME, Workspace, write_steps

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


@pytest.fixture
def remote(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The server as the store of this test, under an experiment of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("RLHF_EXPERIMENT", tmp_path.name)
    return server


def sent_steps(made: Workspace) -> list[int]:
    store = connect(made.path)
    found = store.client.search_runs([store.experiment_id], f"tags.`rlhf.stage_key` = '{made.keys['sft']}'")
    return [step for step, _, _ in points(store, found[0], "train/loss")] if found else []


@pytest.mark.integration
def test_curves_are_live_and_a_server_that_goes_down_and_comes_up_loses_nothing(
    workspace: Workspace, remote: Server
) -> None:
    journal_of_sft = workspace.journal("sft")
    start = {"stage": "sft", "key": workspace.keys["sft"], "params": {}, "inputs": {}, "pipeline_run": "run-1"}
    journal_of_sft.unlink()
    process = sender(workspace, "--follow", stdin=subprocess.PIPE)
    with Journal(journal_of_sft) as journal:
        journal.write("start", **start)
        write_steps(journal, range(3), TIME)
        wait_until(lambda: sent_steps(workspace) == [0, 1, 2], "the curve", 60.0)
        remote.stop()
        write_steps(journal, range(3, 6), TIME)
        assert process.stderr is not None
        assert "Nothing is lost" in process.stderr.readline()
        remote.start()
        write_steps(journal, range(6, 9), TIME)
        journal.write("end", status="done", seconds=1.0)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (0, "", "")
    store = connect(workspace.path)
    expected = [(step, 1.0 / (step + 1), int((TIME + step) * 1000)) for step in range(9)]
    found = store.client.search_runs([store.experiment_id], f"tags.`rlhf.stage_key` = '{workspace.keys['sft']}'")
    assert len(found) == 1
    assert points(store, found[0], "train/loss") == expected
    name = f"{store.prefix}-policy"
    assert len(store.client.search_model_versions(f"name = '{name}'")) == 1


@pytest.mark.integration
def test_a_server_that_is_down_is_told_in_one_line_and_costs_seconds(workspace: Workspace, remote: Server) -> None:
    remote.stop()
    try:
        begun = time.monotonic()
        process = sender(workspace)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == Exit.SERVICE
        assert time.monotonic() - begun < 30
        message, verdict = errors.splitlines()
        assert remote.uri in message
        assert "rlhf sync" in message
        assert verdict.startswith("unsynced")
        assert process.wait() == Exit.SERVICE
    finally:
        remote.start()
    assert sync(workspace.path) == Exit.DONE
    store = connect(workspace.path)
    assert len(list(store.client.search_runs([store.experiment_id]))) == len(GRAPH) + 1


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
