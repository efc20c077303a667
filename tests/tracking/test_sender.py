"""MLflow agrees with the journals: everything once, whatever happened in between."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mlflow.store.tracking.dbmodels.models import SqlDataset
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from rlhf.errors import DataError, Exit
from rlhf.tracking.journal import Journal
from rlhf.tracking.runs import key_name
from rlhf.tracking.sender import Follower, sync
from rlhf.tracking.sent import load_sent
from rlhf.tracking.standing import DECISION, keep, standing
from rlhf.tracking.store import RACES, connect
from tests.conftest import ROOT
from tests.test_text import HOSTILE, SHOWN
from tests.tracking.stored import assert_agrees, points, runs_by_stage, versions
from tests.tracking.workspace import GRAPH, MODEL_STAGES, STEPS, TIME, Workspace, write_pipeline_journal, write_steps


def test_everything_is_there_and_sending_again_changes_nothing(workspace: Workspace) -> None:
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)
    assert sync(workspace.path) == Exit.DONE
    assert_agrees(workspace)


def test_edges_lead_from_a_policy_to_its_parents_and_data(synced: Workspace) -> None:
    store = connect(synced.path)
    runs = runs_by_stage(store)
    made_by = {o.model_id: stage for stage, run in runs.items() for o in run.outputs.model_outputs}
    read_by = {stage: {made_by[i.model_id] for i in run.inputs.model_inputs} for stage, run in runs.items()}
    assert sorted(made_by.values()) == sorted(MODEL_STAGES)
    assert {stage: read for stage, read in read_by.items() if read} == {
        "sft": {"base"},
        "sample": {"sft"},
        "reward@overall": {"sft"},
        "align@dpo": {"sft", "reward@overall"},
    }
    (judgements,) = (i.dataset for i in runs["reward@overall"].inputs.dataset_inputs)
    source = json.loads(judgements.source)
    assert source["sha256"] == synced.digests["data/judgements"]
    assert source["dvc_md5"].endswith(".dir")
    assert runs["reward@overall"].data.tags["dvc.md5.data/judgements"] == source["dvc_md5"]


def test_a_data_set_that_another_client_told_of_in_between_is_no_failure(workspace: Workspace) -> None:
    """MLflow looks whether it knows a data set, and then inserts it: two workspaces that share a store may both do."""
    raced = []

    def be_faster(session: Session, *_: object) -> None:
        new = [row for row in session.new if isinstance(row, SqlDataset)]
        if new and len(raced) < RACES:
            raced.append(new[0].name)
            table, values = (
                SqlDataset.__table__,
                {c.name: getattr(new[0], c.name) for c in SqlDataset.__table__.columns},
            )
            with create_engine(f"sqlite:///{workspace.path}/mlflow.db").begin() as other:
                other.execute(table.insert().values(values | {"dataset_uuid": f"faster-{len(raced)}"}))

    event.listen(Session, "before_flush", be_faster)
    try:
        assert sync(workspace.path) == Exit.DONE
    finally:
        event.remove(Session, "before_flush", be_faster)
    assert len(raced) == RACES
    assert_agrees(workspace)


def test_a_damaged_receipt_ends_no_sender(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """The runs of the stages that did not read that output are sent while a pipeline runs, and it is told once."""
    (workspace.path / "models/sft/receipt.json").write_text("{")
    follower = Follower(workspace.path)
    for _ in range(2):
        follower.attempt(last=False)
        assert isinstance(follower.trouble, DataError)
    assert capsys.readouterr().err.count("receipt.json is damaged") == 1
    store = connect(workspace.path)
    (base,) = store.client.search_runs([store.experiment_id], "tags.`dvc.stage` = 'base'")
    assert len(points(store, base, "train/loss")) == STEPS


def test_a_lock_of_dvc_that_was_read_half_written_costs_no_metric(workspace: Workspace) -> None:
    lock = workspace.path / "dvc.lock"
    whole, follower = lock.read_text(), Follower(workspace.path)
    lock.write_text(whole[: whole.index("deps:") + 3])
    follower.attempt(last=False)
    assert isinstance(follower.trouble, DataError)
    lock.write_text(whole)
    follower.attempt()
    assert follower.trouble is None
    assert_agrees(workspace)


DYING = """
import os, sys
from pathlib import Path
from rlhf.tracking.sender import sync
import mlflow.store.tracking.sqlalchemy_store
for made in map(Path, sys.argv[1:]):
    if not (process := os.fork()):
        os.environ["RLHF_FAILPOINT"] = f"{made}.hits:{made.name}:kill"
        os._exit(sync(made))
    os.waitpid(process, 0)
"""


def test_a_sender_that_dies_anywhere_sends_nothing_twice(workspace: Workspace, tmp_path: Path) -> None:
    """After each request that changes something, and before and after the offset is kept. Number 0 does not die."""
    (workspace.path / "dvc.lock").unlink()
    for path in ("models", ".rlhf"):
        shutil.rmtree(workspace.path / path)
    for journal in set(workspace.path.glob(".work/*")) - {workspace.journal("sft").parent}:
        shutil.rmtree(journal)
    written = ["written", "renamed"]  # the name of the workspace, and the offset
    calls = [*["create_run"] * 2, *["log_batch"] * 3, "log_inputs", "set_terminated"]
    places = [*written, "create_experiment", *calls, *written]
    copies = [shutil.copytree(workspace.path, tmp_path / f"{number}") for number in range(len(places) + 1)]
    subprocess.run(
        [sys.executable, "-c", DYING, *map(str, copies)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    reached = [(tmp_path / f"{number}.hits").read_text().splitlines() for number in range(len(copies))]
    assert [place.removeprefix("mlflow ").split()[0] for place in reached[0]] == places
    for number, made in enumerate(copies):
        assert len(reached[number]) == (number or len(reached[0])), "it died there"
        assert sync(made) == Exit.DONE
        store = connect(made)
        run = runs_by_stage(store)["sft"]
        found = [(step, value) for step, value, _ in points(store, run, "train/loss")]
        assert found == [(step, 1.0 / (step + 1)) for step in range(STEPS)]
        assert run.info.status == "FINISHED"
        assert run.data.tags["rlhf.stage_key"] == workspace.keys["sft"]
        assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["data/clean"]


def test_a_run_holds_the_decision_that_was_made_in_it(workspace: Workspace, tmp_path: Path) -> None:
    decision = standing(workspace.path)
    assert decision is not None
    keep(workspace.path, decision)
    content = (workspace.path / DECISION).read_bytes()
    with Journal(workspace.path / ".rlhf/runs/run-1.jsonl") as journal:
        journal.write("decision", digest=decision.digest)
    (workspace.path / DECISION).write_text("of a later run")
    sync(workspace.path)
    store = connect(workspace.path)
    run = runs_by_stage(store)["pipeline"].info.run_id
    (file,) = store.client.list_artifacts(run, "gate")
    assert Path(store.client.download_artifacts(run, file.path, str(tmp_path))).read_bytes() == content


def test_only_what_is_new_is_sent(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    sync(workspace.path)
    sent: list[tuple[str, int]] = []
    log_batch = MlflowClient.log_batch

    def spy(self: MlflowClient, run_id: str, metrics: Any = (), **rest: Any) -> None:
        sent.extend((metric.key, metric.step) for metric in metrics)
        log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", spy)
    with Journal(workspace.journal("sft")) as journal:
        write_steps(journal, range(STEPS, STEPS + 1), TIME)
    sync(workspace.path)
    assert sent == [("train/loss", STEPS), ("train/kl", STEPS)]


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
    write_pipeline_journal(workspace, "run-2", state="cached", said=HOSTILE)
    sync(workspace.path)
    store = connect(workspace.path)
    runs = {run.info.run_name: run for run in store.client.search_runs([store.experiment_id])}
    assert len(runs) == len(GRAPH) + 2, "a cached stage makes no run"
    dpo = runs["align@dpo"].info.run_id
    assert runs["run-2"].data.tags["stage.align.dpo"] == f"cached {dpo}"
    note = MarkdownIt("commonmark").enable("table").render(runs["run-2"].data.tags["mlflow.note.content"])
    assert f'/runs/{dpo}">' in note
    assert (note.count("<a "), note.count(f"<td>{SHOWN}</td>")) == (len(GRAPH), len(GRAPH))
    assert runs["align@dpo"].data.tags["mlflow.parentRunId"] == runs["run-1"].info.run_id


@given(st.text(max_size=9) | st.lists(st.sampled_from("./ x\\\n\u202e"), max_size=9).map("".join))
@example("x" * 249 + "/y")
@example("use_case.../../x")
@example("/etc/passwd")
def test_every_name_makes_a_key_that_mlflow_takes(name: str) -> None:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import _validate_batch_log_data

    key = key_name(name)
    _validate_batch_log_data([Metric(key, 1.0, 0, 0)], [Param(key, "1")], [RunTag(key, "1")])
    assert key_name(f"train/{name}.x").startswith(("train/", "_train_"))


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


def test_names_that_mlflow_would_refuse_are_changed(workspace: Workspace) -> None:
    with Journal(workspace.journal("validate")) as journal:
        journal.write("metrics_final", values={"reasons": {"not UTF-8 (2 bytes)": 3, "x" * 300: 1}}, time=TIME)
        journal.write("output", path="data/a+b (1)", digest="d")
    assert sync(workspace.path) == Exit.DONE
    data = runs_by_stage(connect(workspace.path))["validate"].data
    assert data.metrics["reasons.not UTF-8 .2 bytes."] == 3.0
    assert data.tags["output.data/a.b .1."] == "d"


def test_values_that_are_not_finite_arrive_once(workspace: Workspace) -> None:
    with Journal(workspace.journal("sft")) as journal:
        journal.write("metrics", step=50, values={"loss": float("nan")}, time=TIME + 4000)
    sync(workspace.path)
    load_sent(workspace.path).path.unlink()
    sync(workspace.path)
    store = connect(workspace.path)
    assert [step for step, _, _ in points(store, runs_by_stage(store)["sft"], "train/loss")] == [*range(STEPS), 50]


def test_a_clock_that_is_set_back_changes_no_order_and_loses_nothing(workspace: Workspace) -> None:
    """What comes later is later in the journal, whatever the time is: also twice the same, and before 1970."""
    path, clock = workspace.journal("sft"), [TIME, TIME - 7200, TIME - 7200, TIME + 30, -5.0]
    path.unlink()
    with Journal(path) as journal:
        start = {"stage": "sft", "key": workspace.keys["sft"], "params": {}, "inputs": {}, "pipeline_run": "run-1"}
        journal.write("start", **start, time=TIME)
        for step, now in enumerate(clock):
            journal.write("metrics", step=step, values={"loss": float(step)}, time=now)
        journal.write("end", status="done", seconds=1.0, time=TIME - 9000)
    sync(workspace.path)
    store = connect(workspace.path)
    run = runs_by_stage(store)["sft"]
    assert [(step, value) for step, value, _ in points(store, run, "train/loss")] == [(n, float(n)) for n in range(5)]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/loss"] == 4.0, "the last one is the one of the last step"


def test_a_store_that_is_made_here_is_its_owners_alone(empty_store: Path) -> None:
    assert empty_store.stat().st_mode & 0o077 == 0
