"""Deployments: a real server, a real worker, a scheduled run that goes through, and an approval by a form."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from rlhf.errors import ConfigError, Exit
from rlhf.gate.ledger import Ledger
from rlhf.pipeline import versioning
from rlhf.tracking.sender import sync
from tests import decisions
from tests.conftest import wait_until
from tests.tracking.workspace import make_workspace, write_decision, write_params

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def no_deployments(prefect_server: str) -> Iterator[None]:
    """The next test is of another workspace."""
    yield
    from flows.server import client

    with client() as connected:
        for deployment in connected.read_deployments():
            connected.delete_deployment(deployment.id)


@pytest.fixture
def worker(prefect_server: str, tmp_path: Path) -> Iterator[None]:
    """A worker of the pool `rlhf`."""
    from flows.deploy import POOL

    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with open(tmp_path / "worker.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ, stdout=log, stderr=log, start_new_session=True
        )
    yield
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def final_state(run: UUID) -> Any:
    """Wait for the end of a flow run; its state."""
    from flows.server import client

    def state() -> Any:
        with client() as connected:
            return connected.read_flow_run(run).state

    wait_until(lambda: state().is_final(), "the end of the run", 120.0)
    return state()


def test_schedules_are_off_until_asked_for(workspace: Path) -> None:
    from flows.deploy import deploy
    from flows.server import client

    def nightly() -> Any:
        with client() as connected:
            return connected.read_deployment_by_name("align/nightly")

    assert deploy(workspace) == ["align/nightly", "promote/promote", "scrub/scrub"]
    assert [schedule.active for schedule in nightly().schedules] == [False]
    assert nightly().parameters == {"workspace": str(workspace)}
    assert nightly().global_concurrency_limit.limit == 1
    assert nightly().concurrency_options.collision_strategy == "ENQUEUE"
    deploy(workspace, activate=True)
    assert [schedule.active for schedule in nightly().schedules] == [True]
    deploy(workspace)
    assert [schedule.active for schedule in nightly().schedules] == [False]


def test_a_workspace_does_not_take_the_schedules_of_another(workspace: Path, tmp_path: Path) -> None:
    from flows.deploy import deploy

    other = shutil.copytree(workspace, tmp_path / "other")
    deploy(workspace, activate=True)
    with pytest.raises(ConfigError, match=rf"align/nightly of this Prefect server is for {workspace}, and"):
        deploy(other)
    deploy(workspace)


def test_a_directory_that_is_no_workspace_is_not_deployed(tmp_path: Path) -> None:
    from flows.deploy import deploy

    with pytest.raises(ConfigError, match="rlhf init"):
        deploy(tmp_path)


@pytest.mark.slow
def test_a_scheduled_run_goes_through(workspace: Path, worker: None) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.client.schemas.schedules import IntervalSchedule

    from flows.deploy import deploy
    from flows.server import client

    deploy(workspace)
    soon = datetime.now(UTC) + timedelta(seconds=15)
    with client() as connected:
        deployment = connected.read_deployment_by_name("align/nightly")
        daily = IntervalSchedule(interval=timedelta(days=1), anchor_date=soon)
        connected.create_deployment_schedules(deployment.id, [(daily, True)])
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))

    def due() -> list[Any]:
        with client() as connected:
            found = connected.read_flow_runs(flow_run_filter=wanted)
        return [run for run in found if run.auto_scheduled and run.expected_start_time < soon + timedelta(hours=1)]

    wait_until(lambda: len(due()) == 1, "the planning of the run", 90.0)
    state = final_state(due()[0].id)
    assert state.is_completed(), state.message
    assert versioning.stale_stages(workspace) == set()


@contextmanager
def asked(workspace: Path) -> Iterator[UUID]:
    """The flow `promote` in a process of its own, once it asks whether to promote; the number of its run."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    from flows.server import client

    flow = FlowFilter(name=FlowFilterName(any_=["promote"]))

    def paused() -> list[Any]:
        with client() as connected:
            found = connected.read_flow_runs(flow_filter=flow)
        return [run for run in found if run.parameters.get("workspace") == str(workspace) and run.state.is_paused()]

    program = (
        "import sys; from flows.promote import promote; print(promote(sys.argv[1], approval=True, return_state=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(workspace)], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: len(paused()) == 1, "the question", 60.0)
        yield paused()[0].id
    finally:
        process.kill()
        process.wait()


def test_a_person_can_refuse_a_promotion_in_a_typed_form(workspace: Path) -> None:
    from prefect.flow_runs import resume_flow_run

    decisions.write(workspace, decisions.made_of("PROMOTE", "small is good.", {"small": "aa"}))
    with asked(workspace) as run:
        with pytest.raises(Exception, match="approver"):
            resume_flow_run(run, run_input={"approve": True})  # nobody answers for it
        resume_flow_run(run, run_input={"approve": False, "approver": "Ada", "comment": "Too long."})
        state = final_state(run)
    assert state.is_failed()
    assert state.message == "GATE_REFUSED: Ada refused. Too long."
    assert not (workspace / ".rlhf/ledger.db").exists()


def test_the_answer_in_the_form_promotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.flow_runs import resume_flow_run

    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the store of the workspace
    made = make_workspace(tmp_path / "small")
    write_decision(made)
    write_params(made.path, approval="form")
    (made.path / "dvc.yaml").touch()
    assert sync(made.path) == Exit.DONE
    with asked(made.path) as run:
        resume_flow_run(run, run_input={"approve": True, "approver": "ada@here", "comment": ""})
        state = final_state(run)
    assert state.is_completed(), state.message
    champion = Ledger.of(made.path).current()
    assert champion is not None
    assert (champion.generation, champion.approver) == (1, "ada@here")


def test_nothing_is_promoted_against_the_gate(workspace: Path) -> None:
    from flows.promote import promote

    assert (
        promote(str(workspace), return_state=True).message == "GATE_REFUSED: No gate has decided. Nothing is promoted"
    )
    decisions.write(workspace, decisions.made_of("REJECT", "KL is 50.", {"small": "aa"}))
    state = promote(str(workspace), return_state=True)
    assert state.is_failed()
    assert state.message == "GATE_REFUSED: The gate says REJECT: KL is 50. Nothing is promoted"


def test_the_scrub_at_night_fails_where_damage_remains(finished: Path) -> None:
    from flows.scrub import scrub

    (finished / ".rlhf/runs").mkdir(parents=True)
    assert scrub(str(finished), return_state=True).is_completed()
    (finished / ".rlhf/runs/run-1.jsonl").write_text("damaged\n{}\n")
    state = scrub(str(finished), return_state=True)
    assert state.is_failed()
    assert "run-1.jsonl: line 1 is damaged" in state.message
    assert scrub(str(finished), return_state=True).is_completed(), "it was moved away"
