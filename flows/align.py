"""The flow `align`: every stage of dvc.yaml as a Prefect task, then the promotion of the gate's winner.

DVC decides what is stale; a stage that it skips or restores ends as Cached. The flow only supervises: each stage is a
process of its own, and this one imports neither torch nor MLflow.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

from prefect import Task, allow_failure, flow
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from flows.promote import ended
from flows.records import Sender, gate_report, promote_apart, record, sending, settled
from flows.results import Reporter, RunResult, Silent, StageResult
from flows.server import (
    Shown,
    client,
    crash_dead_runs,
    ensure_automation,
    ensure_limits,
    never_began,
    quiet_console,
    require_limits,
    tag_with_host,
)
from flows.slots import release_left_over
from flows.stages import Stages, retries, retry_delays
from rlhf.config import load_promotion
from rlhf.config.reading import read_yaml
from rlhf.errors import Exit
from rlhf.pipeline import champion, fingerprint, versioning
from rlhf.pipeline.graph import PARAMS, Graph, load_graph
from rlhf.pipeline.readable import require_workspace
from rlhf.pipeline.receipt import git_state
from rlhf.pipeline.workspace import SCHEDULED, hold_workspace
from rlhf.tracking.journal import Journal, pipeline_journal
from rlhf.tracking.standing import DECISIONS, Standing, is_kept, standing

FLOW = "align"
PROMOTE = "promote"
APPROVE = {
    "form": "answer the form of the deployment `promote` in Prefect",
    "signed": "`rlhf approve --key PATH`, then `rlhf promote`",
}


@dataclass
class Session:
    """One run of one workspace, which holds the workspace's lock."""

    workspace: Path
    reporter: Reporter
    promote: bool
    sender: Sender
    graph: Graph
    stale: set[str]  # what DVC would run or restore
    shown: Shown
    id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}")
    stop: threading.Event = field(default_factory=threading.Event)
    result: RunResult | None = None


_SESSION: ContextVar[Session | None] = ContextVar("session", default=None)


@flow(name=FLOW, persist_result=False)
def pipeline(workspace: str = ".", promote: bool = True) -> State:
    """From feedback to a promoted policy: bring every stage of a workspace up to date, then promote the winner."""
    session = _SESSION.get()
    if session:
        return _run(session)
    directory = Path(workspace).resolve()
    require_workspace(directory)
    with hold_workspace(directory, SCHEDULED), sending(directory) as sender:  # which gives up where another sends
        return _run(_open(directory, Silent(), promote, sender))


def run(
    workspace: Path,
    sender: Sender,
    *,
    reporter: Reporter | None = None,
    promote: bool = True,
    held: bool = False,
) -> RunResult:
    """Run the flow here and now. SIGINT and SIGTERM stop it in order: stages save a checkpoint first.

    held: whether the caller holds the workspace already: `rlhf.pipeline.workspace.hold_workspace`.

    `sender` is at work on the workspace, and is let go when the run is over: `flows.records.sending`.
    Raises Busy when another run holds the workspace, ServiceError without a Prefect server, ConfigError for a dvc.yaml
    that cannot be read. A stage that fails raises nothing: its exit code and message are in the result. A Prefect
    server that goes away in the middle costs what it would have shown.
    """
    quiet_console()
    directory = workspace.resolve()
    require_workspace(directory)
    holding = nullcontext() if held else hold_workspace(directory)
    with holding:
        session = _open(directory, reporter or Silent(), promote, sender)
        token, state = _SESSION.set(session), None
        try:
            with session.shown.ending():
                state = pipeline(str(session.workspace), promote, return_state=True)
        finally:
            _SESSION.reset(token)
    if session.result is None:
        if state is None:
            raise never_began()
        state.result(raise_on_failure=True)
        raise AssertionError(f"the flow ended without a result: {state}")
    return session.result


def _open(workspace: Path, reporter: Reporter, promote: bool, sender: Sender) -> Session:
    """Put in order what a run that was killed left behind, in a workspace that the caller holds."""
    versioning.clear_dead_locks(workspace)
    with client() as connected:
        ensure_limits(connected)
        require_limits(connected)
        ensure_automation(connected)
        own = flow_run.get_id()
        crash_dead_runs(connected, workspace, FLOW, UUID(own) if own else None)
        release_left_over(connected, workspace / ".rlhf" / "leases")
    fingerprint.refresh(workspace)
    graph = load_graph(workspace)
    if removed := versioning.remove_unmade(workspace, graph):
        reporter.message(f"removed, since no stage makes it any more: {', '.join(removed)}")
    stale = versioning.stale_stages(workspace)
    if champion.refresh(workspace, stale):
        stale = versioning.stale_stages(workspace)
    return Session(workspace, reporter, promote, sender, graph, stale, Shown(reporter.message))


def _run(session: Session) -> State:
    """The body of the flow."""
    workspace, graph, reporter, sender = session.workspace, session.graph, session.reporter, session.sender
    with session.shown.trying(), get_client(sync_client=True) as connected:
        tag_with_host(connected)
    with _stopped_by_signals(session.stop), Journal(pipeline_journal(workspace, session.id)) as journal:
        params, git = read_yaml(workspace / PARAMS), git_state(workspace)
        journal.write("start", run_id=session.id, flow_run=flow_run.get_id(), params=params, git=git)
        stages = Stages(workspace, graph, session.stale, session.id, reporter, session.shown, journal, session.stop)
        _submit_all(stages)
        decision = _decision(stages)
        promotion, promoted = _promote(session, decision)
        if promotion:
            journal.write("promotion", exit=promoted, message=promotion)
        results = {name: stages.results[name] for name in graph.stages}
        stopped = session.stop.is_set() and promotion is None
        state = _final_state(results, stopped, promotion, promoted)
        journal.write("end", status=str(state.name).lower())
    with suppress(KeyboardInterrupt, TerminationSignal):  # what is not sent by then stays in the journals
        sender.finish()
    if not sender.synced:
        reporter.message("unsynced: MLflow does not have everything yet; `rlhf sync` sends the rest")
    otherwise = Exit.PREEMPTED if stopped else promoted
    failure = next((result.exit for result in results.values() if result.exit != Exit.DONE), otherwise)
    said = decision.said.to_json() if decision else None
    session.result = RunResult(session.id, results, failure, said, promotion, sender.synced, stopped)
    return state


def forgetful(function: Callable[..., State], name: str, **retrying: Any) -> Task[..., State]:
    """A task of Prefect whose result is neither kept nor looked up: Prefect's store of results is of pickles, which run
    whatever somebody has put there."""
    return Task(fn=function, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **retrying)


def _submit_all(stages: Stages) -> None:
    """Submit every stage as a task that waits for those before it, and wait for them all."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for spec in stages.graph:
            waits_for = [allow_failure(futures[other]) for other in stages.graph.upstream[spec.name]]
            task = forgetful(
                stages.run,
                spec.name,
                retries=retries(spec),
                retry_delay_seconds=retry_delays(spec),
                retry_jitter_factor=0.5,
                retry_condition_fn=lambda task, run, state: stages.may_retry(task.name),
            )
            futures[spec.name] = task.submit(spec.name, return_state=False, wait_for=waits_for)
        for name, future in futures.items():
            future.wait()
            if name not in stages.results:  # Prefect itself failed, or its server
                stages.results[name] = StageResult("failed", Exit.SERVICE, f"Prefect: {future.state.message}")
    except BaseException:
        stages.stop.set()  # a worker cancels the flow by an exception in this thread
        raise


def _decision(stages: Stages) -> Standing | None:
    """The gate's decision, kept and shown in Prefect, when the stage `gate` stands."""
    gate = stages.results.get("gate")
    decision = standing(stages.workspace) if gate and gate.good else None
    if decision and gate:
        known = gate.state == "cached" and is_kept(stages.workspace / DECISIONS / decision.digest)
        record(stages.workspace, decision)
        if not known:
            stages.journal.write("decision", digest=decision.digest)
            with stages.shown.trying():
                create_markdown_artifact(gate_report(decision.said), key="gate", description=decision.said.sentence)
    return decision


def _promote(session: Session, decision: Standing | None) -> tuple[str | None, Exit]:
    """Promote the winner of a decision that nothing was promoted by yet; return what was done and an exit code.

    An MLflow that does not answer leaves the promotion to the next run; it does not fail this one. Where a person has
    to approve, the run ends by saying so.
    """
    workspace, wanted = session.workspace, session.promote and not session.stop.is_set()
    if not (wanted and decision and decision.said.decision == "PROMOTE") or settled(workspace, decision):
        return None, Exit.DONE
    if (approval := load_promotion(workspace / PARAMS).approval) != "none":
        waits = f"{decision.said.winner} waits for a person other than the trainer to approve it: {APPROVE[approval]}"
        return waits, Exit.DONE
    outcome: list[tuple[Exit, str]] = []

    def promote() -> State:
        outcome.append(promote_apart(workspace))
        return ended(*outcome[0])

    forgetful(promote, PROMOTE)(return_state=True)
    code, line = outcome[0]
    if code != Exit.DONE:
        session.reporter.message(f"not promoted: {line}")
    return line, Exit.DONE if code == Exit.SERVICE else code


def _final_state(results: dict[str, StageResult], stopped: bool, promotion: str | None, promoted: Exit) -> State:
    failed = {name: result for name, result in results.items() if result.state == "failed"}
    if stopped:
        return Cancelled(name="Stopped", message="stopped by a signal; the next run goes on")
    if failed:
        return Failed(message="; ".join(f"{name}: {result.message}" for name, result in failed.items()))
    if promoted != Exit.DONE:
        return Failed(message=f"{PROMOTE}: {promotion}")
    return Completed()


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM, instead of what Prefect does inside a flow: raise wherever it stands."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
