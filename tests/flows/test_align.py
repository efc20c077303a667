"""The flow on a toy pipeline, against a real Prefect server: what runs, what is cached, and what a failure stops."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from rlhf.cli.status import stage_reasons
from rlhf.errors import Busy, ConfigError, Exit, ServiceError
from rlhf.gate.ledger import Ledger
from rlhf.locks import hold
from rlhf.manifest import sha256
from rlhf.tracking.journal import read
from tests.conftest import wait_until
from tests.pipeline.test_stage import rewrite
from tests.pipeline.test_supervisor import edit

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]
ALL = {"rows", "model@small", "model@large", "gate"}


@dataclass
class Told:
    """A reporter that keeps what it is told."""

    started: list[str] = field(default_factory=list)
    finished: dict[str, tuple[str, str]] = field(default_factory=dict)
    bars: list[tuple[str, int, int, str]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def stage_started(self, name: str) -> None:
        self.started.append(name)

    def progress(self, name: str, done: int, total: int, label: str) -> None:
        self.bars.append((name, done, total, label))

    def stage_finished(self, name: str, state: str, summary: str, seconds: float) -> None:
        self.finished[name] = (state, summary)

    def message(self, text: str) -> None:
        self.messages.append(text)


def run(workspace: Path, told: Told | None = None):
    from flows import align
    from flows.records import sending

    with sending(workspace) as sender:
        return align.run(workspace, sender, reporter=told)


def states(workspace: Path) -> dict[str, str]:
    """Run the pipeline; how each stage ended."""
    result = run(workspace)
    assert result.exit == Exit.DONE
    return {name: stage.state for name, stage in result.stages.items()}


def task_states(run_id: str, workspace: Path) -> dict[str, tuple[str, str]]:
    """Prefect's name and message of the last state of every task of a run, by the task's name."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.server import client

    flow_run = next(read(workspace / f".rlhf/runs/{run_id}.jsonl"))["flow_run"]
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run)]))

    def tasks():
        with client() as connected:
            return connected.read_task_runs(flow_run_filter=wanted)

    wait_until(lambda: len(tasks()) >= len(ALL) and all(t.state.is_final() for t in tasks()), "the server's news")
    return {task.name: (task.state.name, task.state.message or "") for task in tasks()}


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
    assert Ledger.of(workspace).judged() == {"": []}
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


def test_gpu_stages_run_one_after_the_other(finished: Path) -> None:
    body = """
span = stage.workspace / f"span-{stage.item}"
started = time.time()
time.sleep(0.5)
span.write_text(f"{started} {time.time()}")
stage.output(f"models/{stage.item}").joinpath("model.txt").write_text("x")
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    assert run(finished).exit == Exit.DONE
    spans = sorted(tuple(map(float, file.read_text().split())) for file in finished.glob("span-*"))
    assert spans[0][1] <= spans[1][0]


@pytest.fixture
def no_limit() -> Iterator[None]:
    """A server without the limit `gpu`."""
    from flows.server import GPU, client, ensure_limits

    with client() as connected:
        ensure_limits(connected)
        connected.delete_global_concurrency_limit_by_name(GPU)
        yield
        ensure_limits(connected)


def test_a_missing_limit_is_an_error(no_limit: None, tmp_path: Path) -> None:
    from flows.server import Shown, client, require_limits
    from flows.slots import gpu_slot

    with client() as connected, pytest.raises(ServiceError, match="prefect gcl create gpu"):
        require_limits(connected)
    with pytest.raises(ServiceError, match="prefect gcl create gpu"):
        gpu_slot(tmp_path / "lease", threading.Event(), Shown(print)).__enter__()


def test_who_waits_for_other_runs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import server, slots

    monkeypatch.setattr(slots, "PATIENCE", 1)
    stop, told = threading.Event(), []

    def tell(text: str) -> None:
        told.append(text)
        stop.set()

    with server.client() as connected:
        server.ensure_limits(connected)
        taken = slots._acquire()
        with slots.gpu_slot(tmp_path / "sft", stop, server.Shown(tell)) as held:
            assert not held
        slots._release(connected, taken)
    assert told == ["sft waits: other runs hold every slot of Prefect's limit `gpu`"]


def test_without_a_server_the_stages_of_a_run_still_wait_for_each_other(tmp_path: Path) -> None:
    from flows.server import Shown, slots_here
    from flows.slots import gpu_slot

    stop, away = threading.Event(), Shown(print, whole=False)
    with ExitStack() as taken:
        for number in range(slots_here()):
            assert taken.enter_context(gpu_slot(tmp_path / f"model@{number}", stop, away))
        stop.set()
        with gpu_slot(tmp_path / "last", stop, away) as held:
            assert not held
    with gpu_slot(tmp_path / "last", stop, away) as held:
        assert held


def test_a_lease_is_renewed_at_the_server_that_its_stage_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import server, slots

    monkeypatch.setattr(slots, "RENEWAL", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as asked:
        asked.settimeout(30)
        with (
            temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{asked.getsockname()[1]}/api"}),
            slots.gpu_slot(tmp_path / "sft", threading.Event(), server.Shown(print, whole=False)),
        ):
            connection, _ = asked.accept()
            with connection:
                request = connection.recv(65536)
    assert b" /api/" in request.splitlines()[0]


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


PROGRAM = """
import sys
from pathlib import Path
from flows.align import run
from flows.records import sending
with sending(Path(sys.argv[1])) as sender:
    result = run(Path(sys.argv[1]), sender)
heavy = [name for name in ("torch", "mlflow", "transformers", "pandas") if name in sys.modules]
print(result.exit.name, heavy)
"""


@pytest.fixture
def start() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Start a run of a workspace as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def go(workspace: Path) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, str(workspace)], cwd=Path(__file__).parents[2], **pipes)
        )
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


def test_a_run_in_a_terminal_shows_nothing_of_prefect_and_imports_nothing_heavy(finished: Path, start) -> None:
    edit(finished / "params.yaml", "limit: 1", "limit: 2")
    assert start(finished).communicate(timeout=60)[0] == "DONE []\n"


def test_after_kill_9_of_the_run_the_next_one_goes_on(finished: Path, start) -> None:
    from prefect.client.schemas.objects import StateType
    from prefect.states import Completed, Running

    from flows.align import pipeline
    from flows.server import DEAD, client

    body = """
step = stage.work / "step"
resumed = step.exists()
step.write_text("3")
(stage.workspace / "up").touch()
if not resumed:
    time.sleep(60)
stage.output(f"models/{stage.item}").joinpath("model.txt").write_text(f"resumed: {resumed}")
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    edit(finished / "params.yaml", "[small, large]", "[small]")
    process = start(finished)
    wait_until((finished / "up").exists, "the stage", 60.0)
    process.kill()
    process.wait()
    (journal,) = (finished / ".rlhf/runs").iterdir()
    dead = UUID(next(read(journal))["flow_run"])
    with client() as connected:  # one at work on another machine, where a workspace has the same path
        elsewhere = connected.create_flow_run(
            pipeline, parameters={"workspace": str(finished)}, tags=["host:elsewhere"], state=Running()
        ).id
    started = time.monotonic()
    result = run(finished)
    assert result.exit == Exit.DONE
    assert time.monotonic() - started < 30.0  # the slot of the dead run was given back, not waited for
    assert (finished / "models/small/model.txt").read_text() == "resumed: True"
    with client() as connected:
        assert connected.read_flow_run(dead).state.type == StateType.CRASHED
        assert connected.read_flow_run(elsewhere).state.type == StateType.RUNNING
        connected.set_flow_run_state(elsewhere, Completed(), force=True)
        (automation,) = connected.read_automations_by_name(DEAD)  # for those whom nobody runs again
    assert automation.enabled
    assert automation.trigger.within == timedelta(seconds=3 * 180)


def test_a_run_that_is_stopped_promotes_nobody(finished: Path) -> None:
    """However far it came: the gate has decided, and the next run goes on with that."""
    edit(finished / "gate.py", '"REJECT", "No model is good.", None', '"PROMOTE", "small is good.", "small"')

    class Stopping(Told):
        def stage_finished(self, name: str, state: str, summary: str, seconds: float) -> None:
            super().stage_finished(name, state, summary, seconds)
            if name == "gate":
                os.kill(os.getpid(), signal.SIGTERM)

    stopped = run(finished, Stopping())
    assert (stopped.exit, stopped.stopped, stopped.promotion) == (Exit.PREEMPTED, True, None)
    again = run(finished).promotion  # which the toy, that trains no policy, cannot have
    assert again is not None
    assert "models/policy/small" in again


def test_a_fault_around_a_stage_is_the_stages_and_stops_what_waits_for_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that finds no room on the disk."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(workspace / ".rlhf"))

    monkeypatch.setattr("flows.slots._lease", full)
    result = run(workspace)
    assert result.exit == Exit.DISK_FULL
    states = {name: stage.state for name, stage in result.stages.items()}
    assert set(states.values()) <= {"ran", "failed", "skipped"}
    assert states["gate"] == "skipped"


def test_a_lease_that_a_dying_run_half_wrote_stops_no_other(workspace: Path) -> None:
    (workspace / ".rlhf/leases").mkdir(parents=True)
    for name in (".partial-model", "model"):
        (workspace / ".rlhf/leases" / name).touch()
    assert run(workspace).exit == Exit.DONE
    assert not list((workspace / ".rlhf/leases").iterdir())


def test_sigterm_stops_the_run_in_order(workspace: Path, start) -> None:
    rewrite(workspace, "rows", "(stage.workspace / 'up').touch()\ntime.sleep(60)")
    process = start(workspace)
    wait_until((workspace / "up").exists, "the stage", 60.0)
    process.terminate()
    assert process.communicate(timeout=60)[0] == "PREEMPTED []\n"
    (journal,) = (workspace / ".rlhf/runs").iterdir()
    records = list(read(journal))
    assert {record["name"]: record["state"] for record in records if record["kind"] == "stage"}["rows"] == "failed"
    assert records[-1]["status"] == "stopped"
