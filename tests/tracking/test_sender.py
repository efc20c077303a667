"""MLflow agrees with the journals: everything once, whatever happened in between."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import Exit
from rlhf.tracking.journal import Journal
from rlhf.tracking.sender import sync
from rlhf.tracking.sent import load_sent
from rlhf.tracking.store import Store, connect
from tests.tracking.conftest import Server
from tests.tracking.workspace import GRAPH, MODEL_STAGES, STEPS, TIME, Workspace, write_pipeline_journal, write_steps

ROOT = Path(__file__).parents[2]


def runs_by_stage(store: Store) -> dict[str, Any]:
    """Every run, by its stage or "pipeline"; two runs of one stage are an error."""
    runs = list(store.client.search_runs([store.experiment_id]))
    names = [run.data.tags.get("dvc.stage", "pipeline") for run in runs]
    assert len(set(names)) == len(names), names
    return {name: store.client.get_run(run.info.run_id) for name, run in zip(names, runs, strict=True)}


def points(store: Store, run: Any, key: str) -> list[tuple[int, float, int]]:
    return sorted((m.step, m.value, m.timestamp) for m in store.client.get_metric_history(run.info.run_id, key))


def versions(store: Store) -> Counter[str]:
    """Stage keys of all registered versions, counted."""
    return Counter(version.tags["stage_key"] for version in store.client.search_model_versions())


def assert_agrees(made: Workspace) -> None:
    """The store holds exactly what the fixture wrote."""
    store = connect(made.path)
    runs = runs_by_stage(store)
    assert runs.keys() == {*GRAPH, "pipeline"}
    parent = runs.pop("pipeline")
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"seed": "0", "gate.confidence": "0.95"}
    for position, stage in enumerate(GRAPH):
        run, begun = runs[stage], TIME + 100 * position
        assert run.data.tags["rlhf.stage_key"] == made.keys[stage]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.info.start_time, run.info.end_time) == (
            "FINISHED",
            begun * 1000,
            (begun + 60) * 1000,
        )
        expected = [(step, 1.0 / (step + 1), int((begun + step) * 1000)) for step in range(STEPS)]
        assert points(store, run, "train/loss") == expected
        assert points(store, run, "accuracy.value") == [(0, 0.75, int((begun + 50) * 1000))]
        data = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
        assert data == {p: made.digests[p][:36] for p in GRAPH[stage][1] if p.startswith("data/")}
    assert versions(store) == Counter(made.keys[stage] for stage in MODEL_STAGES)


def test_everything_is_there_and_sending_again_changes_nothing(workspace: Workspace) -> None:
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)


def test_edges_lead_from_a_policy_to_its_parents_and_data(workspace: Workspace) -> None:
    sync(workspace.path)
    store = connect(workspace.path)
    runs = runs_by_stage(store)
    made_by = {o.model_id: stage for stage, run in runs.items() for o in run.outputs.model_outputs}
    read_by = {stage: {made_by[i.model_id] for i in run.inputs.model_inputs} for stage, run in runs.items()}
    assert sorted(made_by.values()) == sorted(MODEL_STAGES)
    assert {stage: read for stage, read in read_by.items() if read} == {
        "sft": {"base"},
        "sample": {"sft"},
        "reward": {"sft"},
        "align@dpo": {"sft", "reward"},
    }
    (judgements,) = (i.dataset for i in runs["reward"].inputs.dataset_inputs)
    source = json.loads(judgements.source)
    assert source["sha256"] == workspace.digests["data/judgements"]
    assert source["dvc_md5"].endswith(".dir")
    assert runs["reward"].data.tags["dvc.md5.data/judgements"] == source["dvc_md5"]


@pytest.mark.parametrize("lost", ["offsets", "one_run", "state"])
def test_a_crash_before_the_offset_is_kept_sends_no_metric_twice(workspace: Workspace, lost: str) -> None:
    sync(workspace.path)
    sent = load_sent(workspace.path)
    if lost == "state":
        sent.path.unlink()
    else:
        for name in list(sent.journals)[: 1 if lost == "one_run" else None]:
            sent.journals[name].offset = 0
        sent.save()
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)


def test_a_resumed_stage_repeats_steps_and_they_count_once(workspace: Workspace) -> None:
    with Journal(workspace.journal("sft")) as journal:
        start = {"stage": "sft", "key": workspace.keys["sft"], "params": {}, "inputs": {}, "pipeline_run": "run-1"}
        journal.write("start", **start, time=TIME + 5000)
        write_steps(journal, range(STEPS - 2, STEPS + 2), TIME + 5000)
        journal.write("end", status="done", seconds=1.0, time=TIME + 5010)
    sync(workspace.path)
    store = connect(workspace.path)
    history = points(store, runs_by_stage(store)["sft"], "train/loss")
    assert [step for step, _, _ in history] == list(range(STEPS + 2))
    assert history[STEPS - 1][2] == int((TIME + 300 + STEPS - 1) * 1000), "the first of two equal steps stands"


def test_work_that_was_deleted_and_done_again_adds_nothing(workspace: Workspace) -> None:
    sync(workspace.path)
    store, journal = connect(workspace.path), workspace.journal("sft")
    before = points(store, runs_by_stage(store)["sft"], "train/loss")
    start = next(json.loads(line) for line in journal.read_text().splitlines())
    start = {name: value for name, value in start.items() if name not in ("crc", "kind", "time")}
    shutil.rmtree(journal.parent)
    with Journal(journal) as again:
        again.write("start", **{**start, "host": "a much longer name of another machine"})
        write_steps(again, range(STEPS), TIME + 9000)
        again.write("end", status="done", seconds=1.0)
    sync(workspace.path)
    assert points(store, runs_by_stage(store)["sft"], "train/loss") == before


@pytest.mark.integration
def test_deleting_the_store_registers_the_same_models_once(workspace: Workspace) -> None:
    for _ in range(2):
        process = sender(workspace)
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == Exit.DONE
        before = load_sent(workspace.path).versions
        (workspace.path / "mlflow.db").unlink()
        shutil.rmtree(workspace.path / "mlartifacts")
    assert sync(workspace.path) == Exit.DONE
    assert load_sent(workspace.path).versions == before
    assert_agrees(workspace)


def test_a_restored_workspace_registers_from_receipts(workspace: Workspace) -> None:
    shutil.rmtree(workspace.path / ".work")
    shutil.rmtree(workspace.path / ".rlhf")
    assert sync(workspace.path) == Exit.DONE
    store = connect(workspace.path)
    assert versions(store) == Counter(workspace.keys[stage] for stage in MODEL_STAGES)
    runs = runs_by_stage(store)
    assert runs.keys() == set(MODEL_STAGES)
    assert {run.data.tags["rlhf.restored"] for run in runs.values()} == {"true"}
    assert runs["align@dpo"].data.params["align.dpo.beta"] == "0.1"
    assert len(runs["align@dpo"].inputs.model_inputs) == 2


def test_cached_stages_point_to_the_runs_that_did_the_work(workspace: Workspace) -> None:
    sync(workspace.path)
    write_pipeline_journal(workspace, "run-2", state="Cached")
    sync(workspace.path)
    store = connect(workspace.path)
    runs = {run.info.run_name: run for run in store.client.search_runs([store.experiment_id])}
    assert len(runs) == len(GRAPH) + 2, "a cached stage makes no run"
    dpo = runs["align@dpo"].info.run_id
    assert runs["run-2"].data.tags["stage.align.dpo"] == f"Cached {dpo}"
    assert f"/runs/{dpo})" in runs["run-2"].data.tags["mlflow.note.content"]
    assert runs["align@dpo"].data.tags["mlflow.parentRunId"] == runs["run-1"].info.run_id


def test_a_stage_that_was_killed_is_not_running_for_ever(workspace: Workspace) -> None:
    path = workspace.journal("sft")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with Journal(path):
        sync(workspace.path)
        assert runs_by_stage(connect(workspace.path))["sft"].info.status == "RUNNING"
    sync(workspace.path)
    assert runs_by_stage(connect(workspace.path))["sft"].info.status == "KILLED"


def test_one_damaged_journal_is_named_and_the_rest_is_sent(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    path = workspace.journal("sft")
    path.write_bytes(path.read_bytes().replace(b'"loss":0.5', b'"loss":0.6'))
    assert sync(workspace.path) == Exit.DATA
    assert f"{path}: line 3 is damaged" in capfd.readouterr().err
    assert len(runs_by_stage(connect(workspace.path))) == len(GRAPH) + 1


def test_a_changed_weight_is_not_registered(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    weights = workspace.path / "models/policy/dpo/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert sync(workspace.path) == Exit.DATA
    assert str(weights) in capfd.readouterr().err
    assert workspace.keys["align@dpo"] not in versions(connect(workspace.path))


def test_values_that_are_not_finite_arrive_once(workspace: Workspace) -> None:
    with Journal(workspace.journal("sft")) as journal:
        journal.write("metrics", step=50, values={"loss": float("nan")}, time=TIME + 4000)
    sync(workspace.path)
    load_sent(workspace.path).path.unlink()
    sync(workspace.path)
    store = connect(workspace.path)
    assert [step for step, _, _ in points(store, runs_by_stage(store)["sft"], "train/loss")] == [*range(STEPS), 50]


def sender(made: Workspace, *options: str, **kwargs: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rlhf.tracking.sender", str(made.path), *options]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.integration
def test_two_senders_at_once_make_everything_once(workspace: Workspace) -> None:
    both = [sender(workspace) for _ in range(2)]
    output = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert output == [("", ""), ("", "")], "no noise of MLflow or alembic"
    assert_agrees(workspace)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


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
        wait_until(lambda: sent_steps(workspace) == [0, 1, 2])
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
        child = Path("/proc") / parent.stdout.readline().strip()
        wait_until(lambda: bool(load_sent(workspace.path).journals))
        parent.kill()
        parent.wait()
        wait_until(lambda: not child.exists() or ") Z " in (child / "stat").read_text(), 30)
