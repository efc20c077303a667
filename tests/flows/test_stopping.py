"""A run that is killed, stopped or told to end: what it leaves, and how the next one goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from rlhf.errors import Exit
from rlhf.tracking.journal import read
from tests.conftest import wait_until
from tests.flows.running import Told, run
from tests.pipeline.test_stage import rewrite
from tests.pipeline.test_supervisor import edit

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]

Start = Callable[[Path], subprocess.Popen[str]]

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
def start() -> Iterator[Start]:
    """Start a run of a workspace as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def go(workspace: Path) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, str(workspace)], cwd=Path(__file__).parents[2], **pipes)
        )
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


def test_a_run_in_a_terminal_shows_nothing_of_prefect_and_imports_nothing_heavy(finished: Path, start: Start) -> None:
    edit(finished / "params.yaml", "limit: 1", "limit: 2")
    assert start(finished).communicate(timeout=60)[0] == "DONE []\n"


def test_after_kill_9_of_the_run_the_next_one_goes_on(finished: Path, start: Start) -> None:
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_over_is_not_undone_by_who_does_not_wait_for_mlflow(number: int, finished: Path) -> None:
    """A signal during the last pass of the sender ends the waiting."""
    from flows.align import run
    from flows.records import Sender, sending

    class Slow(Sender):
        def finish(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(60)

    with sending(finished) as sender:
        result = run(finished, Slow(sender.process))
    assert (result.exit, result.stopped, result.synced) == (Exit.DONE, False, False)
    (journal,) = (finished / ".rlhf/runs").glob(f"{result.id}.jsonl")
    assert list(read(journal))[-1]["status"] == "completed"


def test_sigterm_stops_the_run_in_order(workspace: Path, start: Start) -> None:
    rewrite(workspace, "rows", "(stage.workspace / 'up').touch()\ntime.sleep(60)")
    process = start(workspace)
    wait_until((workspace / "up").exists, "the stage", 60.0)
    process.terminate()
    assert process.communicate(timeout=60)[0] == "PREEMPTED []\n"
    (journal,) = (workspace / ".rlhf/runs").iterdir()
    records = list(read(journal))
    assert {record["name"]: record["state"] for record in records if record["kind"] == "stage"}["rows"] == "failed"
    assert records[-1]["status"] == "stopped"
