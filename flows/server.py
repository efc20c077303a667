"""What the flows need of a Prefect server: that it answers, that the limits exist, that dead runs are marked."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from json import JSONDecodeError
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.events import ChangeFlowRunState, EventTrigger
from prefect.events.schemas.automations import AutomationCore, Posture
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.states import Crashed, State
from pydantic import ValidationError

from rlhf.errors import ServiceError, first_line
from rlhf.pipeline.process import gpus

GPU = "gpu"  # the global concurrency limit that stages with `meta.gpu` occupy
DEAD = "rlhf: runs without a heartbeat have crashed"  # the automation
ANEW = "Start it anew (`rlhf down`, `rlhf up`), or correct PREFECT_API_URL"
MISSED = 3  # heartbeats, after which a run is dead
LAST = 10.0  # seconds for the last events and logs of a run


@contextmanager
def client() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server. Raises ServiceError when none is configured or it does not answer."""
    url = PREFECT_API_URL.value()
    if not url:
        raise ServiceError("No Prefect server is set. Start the services (`rlhf up`), or set PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as connected:
            yield connected
    except httpx.TransportError as error:
        raise ServiceError(
            f"The Prefect server at {url} does not answer ({type(error).__name__}). Start it: `rlhf up`"
        ) from None
    except httpx.HTTPStatusError as error:
        said = f"answers HTTP {error.response.status_code} to {error.request.url.path}"
        raise ServiceError(f"The Prefect server at {url} {said}. {ANEW}") from None
    except (JSONDecodeError, ValidationError) as error:
        raise ServiceError(f"What answers at {url} is no Prefect server ({first_line(error)}). {ANEW}") from None


@dataclass
class Shown:
    """What is only to be shown in Prefect: the work does not depend on it, and what is lost is told once."""

    tell: Callable[[str], None]
    whole: bool = True  # whether Prefect took everything so far
    _telling: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Let pass that the server does not answer, or answers nonsense."""
        try:
            yield
        except (httpx.HTTPError, JSONDecodeError) as error:
            self.lose(type(error).__name__)
        except RuntimeError as error:  # what Prefect makes of it where it asks for the server's version
            if not isinstance(error.__cause__, httpx.HTTPError):
                raise
            self.lose(type(error.__cause__).__name__)

    def lose(self, why: str) -> None:
        """Say that something is lost, unless that was said before."""
        with self._telling:
            whole, self.whole = self.whole, False
        if whole:
            self.tell(f"Prefect does not show all of this run: its server does not answer ({why})")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """As `trying`; then give Prefect's threads LAST seconds for the last events and logs, and stop them.

        Prefect would wait for them when the process ends, two minutes an event where the server is silent.
        """
        try:
            with self.trying():
                yield
        finally:
            threads = list(EventsWorker._instances.values())  # type: ignore[misc]
            tasks = [(thread._loop, thread._task) for thread in threads]  # which draining forgets
            _, late = cast(tuple[set[Any], set[Any]], EventsWorker.drain_all(timeout=LAST))  # and of logs
            for loop, task in tasks if late else ():
                if loop and task:
                    loop.call_soon_threadsafe(task.cancel)
            if late:
                self.lose("events and logs")


def slots_here() -> int:
    """How many stages of this machine may have a GPU at a time: one a GPU, and one where there is none."""
    return max(1, len(gpus(os.environ)))


def ensure_limits(connected: SyncPrefectClient) -> None:
    """Create the limit `gpu`, one slot a GPU of this machine, at least one. One that exists is left as it is."""
    try:
        connected.read_global_concurrency_limit_by_name(GPU)
    except ObjectNotFound:
        try:
            connected.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=slots_here()))
        except ObjectAlreadyExists:
            return  # another run was faster


def require_limits(connected: SyncPrefectClient) -> None:
    """Raises ServiceError when the limit `gpu` is missing or off: stages would then share a GPU without a warning."""
    try:
        limit = connected.read_global_concurrency_limit_by_name(GPU)
    except ObjectNotFound:
        raise no_limit() from None
    if not limit.active:
        raise ServiceError(f"Prefect's concurrency limit `{GPU}` is off. Turn it on: prefect gcl enable {GPU}")


def no_limit() -> ServiceError:
    """What is to be said where the limit `gpu` is missing."""
    return ServiceError(f"Prefect has no concurrency limit `{GPU}`. Create it: prefect gcl create {GPU} --limit 1")


def never_began() -> ServiceError:
    """What a run ends with whose flow Prefect could not begin."""
    return ServiceError("The Prefect server went away before the run began. Start it: `rlhf up`, then `rlhf run`")


def ensure_automation(connected: SyncPrefectClient) -> None:
    """Have the server itself mark as Crashed any run of a flow whose process is gone, if nobody runs it again here.

    A run sends heartbeats, every 180 s unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY says otherwise. The automation is made
    once; one that exists is left as it is.
    """
    frequency = get_current_settings().flows.heartbeat_frequency
    if not frequency or connected.read_automations_by_name(DEAD):
        return
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},  # the next heartbeat, or whatever state the run ends in
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=timedelta(seconds=MISSED * frequency),
    )
    crashed = ChangeFlowRunState(state=StateType.CRASHED, message="Its process died.")
    connected.create_automation(AutomationCore(name=DEAD, trigger=trigger, actions=[crashed]))


def tag_with_host(connected: SyncPrefectClient) -> None:
    """Tag the flow run that this process is in by the machine: other machines, and containers, may have a workspace at
    the same path."""
    connected.update_flow_run(UUID(flow_run.get_id()), tags=[*flow_run.get_tags(), _host()])


def _host() -> str:
    return f"host:{socket.gethostname()}"


def crash_dead_runs(connected: SyncPrefectClient, workspace: Path, flow: str, own: UUID | None) -> None:
    """Mark as Crashed the runs of `flow` that a dead process left Running in this workspace, and their tasks.

    Who calls it holds the lock of the workspace: no other run of it can be alive.
    """
    running, unfinished = [StateType.RUNNING], [StateType.RUNNING, StateType.PENDING]
    found = connected.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=running)), tags=FlowRunFilterTags(all_=[_host()])
        ),
    )
    dead = [run.id for run in found if run.parameters.get("workspace") == str(workspace) and run.id != own]
    if not dead:
        return
    crashed: State[None] = Crashed(message="Its process died.")
    tasks = connected.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=dead)),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished))),
    )
    for task in tasks:
        connected.set_task_run_state(task.id, crashed, force=True)
    for run in dead:
        connected.set_flow_run_state(run, crashed, force=True)


def quiet_console() -> None:
    """Take Prefect's handlers off the terminal: its log goes to the server, the run is shown by a Reporter."""
    logging.raiseExceptions = False  # or Prefect writes there of logs that the server does not take
    for logger in [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]:
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and type(handler).__module__ == "prefect.logging.handlers":
                logger.removeHandler(handler)
                logger.addHandler(logging.NullHandler())  # or Python's handler of last resort takes its place
