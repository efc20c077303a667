"""The flow on a toy pipeline, against a real Prefect server: what runs, what is cached, and what a failure stops."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from rlhf.cli.status import stage_reasons
from rlhf.errors import Busy, ConfigError, Exit, ServiceError
from rlhf.gate.ledger import LEDGER, Ledger
from rlhf.locks import hold
from rlhf.manifest import sha256
from rlhf.tracking.journal import read
from tests.flows.running import ALL, Told, run, states, task_states
from tests.pipeline.test_stage import rewrite
from tests.pipeline.test_supervisor import edit

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


def gate_artifact(flow_run: UUID) -> str:
    """The gate's report of a run, as Prefect shows it."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.server import client

    with client() as connected:
        found = connected.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["gate"])))
    (artifact,) = (artifact for artifact in found if artifact.flow_run_id == flow_run)
    return artifact.data


def test_the_cache_table(finished: Path) -> None:
    edit(finished / "params.yaml", "repeats: 2", "repeats: 2 # a comment")
    edit(finished / "model.py", "    repeats =", "    # another\n    repeats =")
    assert set(states(finished).values()) == {"cached"}

    shutil.rmtree(finished / "data")
    shutil.rmtree(finished / "models")
    after = states(finished)
    assert after == {"rows": "restored", "model@small": "restored", "model@large": "restored", "gate": "cached"}

    edit(finished / "params.yaml", "repeats: 2", "repeats: 3")
    assert states(finished) == {"rows": "cached", "model@small": "cached", "model@large": "ran", "gate": "ran"}

    edit(finished / "source.txt", "two", "three")
    assert set(states(finished).values()) == {"ran"}
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=finished, capture_output=True, text=True)
    assert "up to date" in done.stdout

    edit(finished / "source.txt", "three", "two")
    assert states(finished) == dict.fromkeys(ALL, "restored")


def test_a_frozen_stage_stays_as_it_is(finished: Path) -> None:
    edit(finished / "dvc.yaml", "    cmd: python rows.py", "    frozen: true\n    cmd: python rows.py")
    edit(finished / "source.txt", "two", "three")
    assert not any(stage_reasons(finished).values())
    told = Told()
    assert run(finished, told).exit == Exit.DONE
    assert told.finished["rows"] == ("cached", "frozen")
    assert told.finished["gate"] == ("cached", "up to date")


def test_prefect_and_the_journal_show_the_run(workspace: Path) -> None:
    told = Told()
    result = run(workspace, told)
    assert told.finished["rows"] == ("ran", "2 rows")
    assert set(told.started) == ALL
    assert told.bars[-1][0].startswith("model@")
    assert task_states(result.id, workspace)["rows"] == ("Completed", "2 rows")
    records = list(read(workspace / f".rlhf/runs/{result.id}.jsonl"))
    assert [record["kind"] for record in records] == ["start", *["stage"] * 4, "decision", "end"]
    (kept,) = (workspace / ".rlhf/decisions").glob("[!.]*")
    assert records[-2]["digest"] == kept.name == sha256(workspace / "reports/gate/decision.json")
    with closing(sqlite3.connect(workspace / LEDGER)) as ledger:
        assert ledger.execute("SELECT digest FROM decisions").fetchall() == [(kept.name,)]
    assert records[0]["params"]["model"]["large"] == {"repeats": 2}
    assert records[-1]["status"] == "completed"
    assert result.decision is not None
    assert result.decision["decision"] == "REJECT"
    report = gate_artifact(UUID(records[0]["flow_run"]))
    assert "# REJECT" in report
    assert "Checks passed: size 1/1." in report

    again = Told()
    second = run(workspace, again)
    assert again.started == []
    assert {name for name, _ in task_states(second.id, workspace).values()} == {"Cached"}


def test_a_policy_waits_for_approval_and_does_not_return_after_a_rollback(finished: Path) -> None:
    edit(finished / "params.yaml", "approval: none", "approval: form")
    edit(finished / "gate.py", '"REJECT", "No model is good.", None', '"PROMOTE", "small is good.", "small"')
    asked = run(finished)
    assert asked.exit == Exit.DONE
    assert asked.promotion is not None
    assert "answer the form of the deployment `promote`" in asked.promotion
    book = Ledger.of(finished)
    assert book.history() == []

    book.promote("key", "another", "policy/1", "report", 0)
    book.promote("key", "small", "policy/2", "report", 1)
    book.rollback(2)
    edit(finished / "params.yaml", "approval: form", "approval: none")
    assert run(finished).promotion is None


def test_a_passing_fault_is_tried_again_and_a_configuration_is_not(finished: Path) -> None:
    body = """
count = stage.workspace / f"attempts-{stage.item}"
count.open("a").write("x")
if stage.item == "small" and len(count.read_text()) < 3:
    raise errors.Retryable("the hub is away")
if stage.item == "large":
    raise errors.ConfigError("`repeats` is odd")
stage.output("models/small").joinpath("model.txt").write_text("whole")
stage.output("reports/model/small.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    told = Told()
    result = run(finished, told)
    assert (finished / "attempts-small").read_text() == "xxx"
    assert (finished / "attempts-large").read_text() == "x"
    assert result.exit == Exit.CONFIG
    assert {name: stage.state for name, stage in result.stages.items()} == {
        "rows": "cached",
        "model@small": "ran",  # does not wait for its sister
        "model@large": "failed",
        "gate": "skipped",
    }
    assert result.stages["gate"].message == "waits for model@large"
    assert told.messages.count("model@small: the hub is away. It is tried again") == 2
    shown = task_states(result.id, finished)
    assert shown["model@large"] == ("Failed", "CONFIG: `repeats` is odd")
    assert shown["gate"] == ("Skipped", "waits for model@large")


def test_a_failure_skips_everything_behind_it(workspace: Path) -> None:
    rewrite(workspace, "rows", "raise errors.DataError('row 3 is bad')")
    result = run(workspace)
    assert result.exit == Exit.DATA
    assert result.stages["rows"].message == "row 3 is bad"
    assert {result.stages[name].state for name in ALL - {"rows"}} == {"skipped"}
    shown = task_states(result.id, workspace)
    assert {name: shown[name][0] for name in ALL} == dict.fromkeys(ALL, "Skipped") | {"rows": "Failed"}


def test_retries_end(finished: Path) -> None:
    rewrite(finished, "model", "(stage.workspace / stage.item).open('a').write('x')\nraise errors.Retryable('away')")
    edit(finished / "params.yaml", "[small, large]", "[small]")
    assert run(finished).exit == Exit.RETRYABLE
    assert (finished / "small").read_text() == "xxx"  # meta.retries: 2


def test_a_stage_killed_from_outside_is_tried_again_and_resumes(finished: Path) -> None:
    body = """
step = stage.work / "step"
resumed = step.exists()
step.write_text("3")
if not resumed and stage.item == "small":
    os.kill(os.getpid(), 9)
stage.output(f"models/{stage.item}").joinpath("model.txt").write_text(f"resumed: {resumed}")
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    result = run(finished)
    assert result.exit == Exit.DONE
    assert (finished / "models/small/model.txt").read_text() == "resumed: True"
    assert (finished / "models/large/model.txt").read_text() == "resumed: False"
    assert list(finished.glob(".work/*/step")) == []  # DVC has the outputs: the checkpoints are not needed


def test_a_second_run_is_busy_and_names_the_first(workspace: Path) -> None:
    with (
        hold(workspace / ".rlhf/run.lock", "x"),
        pytest.raises(Busy, match=r"workspace.* in use by process \d+ on .* since"),
    ):
        run(workspace)


def test_a_server_that_does_not_answer_is_named(workspace: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"),
    ):
        run(workspace)


def test_a_dvc_yaml_that_is_wrong_stops_before_anything_starts(workspace: Path) -> None:
    edit(workspace / "dvc.yaml", "${source.path}", "${source.place}")
    with pytest.raises(ConfigError, match=r"source\.place"):
        run(workspace)
    assert not (workspace / ".rlhf/runs").exists()
