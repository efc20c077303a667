"""The stages of one run: what each waits for, whether it has anything to do, and how its end looks to Prefect."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prefect.states import Completed, Failed, State

from flows.results import Reporter, StageResult
from flows.server import Shown
from flows.slots import gpu_slot
from rlhf.errors import RETRIED, Exit, UserError
from rlhf.pipeline import versioning
from rlhf.pipeline.faults import explain
from rlhf.pipeline.graph import Graph, StageSpec
from rlhf.pipeline.stage import clear_checkpoints
from rlhf.pipeline.supervisor import Outcome, supervise
from rlhf.tracking.journal import Journal

RETRY_DELAY = 5.0  # seconds before the first retry, doubled each time; `meta.retry_delay` of a stage overrides it


@dataclass
class Stages:
    """The stages of one run and the results so far. `run` is called for each, from several threads."""

    workspace: Path
    graph: Graph
    stale: set[str]  # what DVC would run or restore
    run_id: str
    reporter: Reporter
    shown: Shown
    journal: Journal
    stop: threading.Event
    results: dict[str, StageResult] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def run(self, name: str) -> State:
        """Bring one stage up to date, when those it waits for are; return its state for Prefect."""
        self.attempts[name] = self.attempts.get(name, 0) + 1
        ended = {other: self.results.get(other) for other in self.graph.upstream[name]}
        failed = [other for other, result in ended.items() if not (result and result.good)]
        if failed:
            result = StageResult("skipped", message=f"waits for {', '.join(failed)}")
        elif self._is_up_to_date(name):
            result = StageResult("cached", summary=_rests(self.graph.stages[name]))
        else:
            try:
                result = self._work(self.graph.stages[name])
            except (UserError, OSError) as error:  # before or after the stage: no slot to be had, a disk that is full
                result = StageResult("failed", *explain(error, name, self.workspace))
        self.results[name] = result
        if self.may_retry(name) and self.attempts[name] <= retries(self.graph.stages[name]):
            self.reporter.message(f"{name}: {result.message}. It is tried again")
        else:
            self._tell(name, result)
        return _prefect_state(result)

    def may_retry(self, name: str) -> bool:
        """Whether the stage failed in a way that may pass."""
        return name in self.results and self.results[name].exit in RETRIED and not self.stop.is_set()

    def _tell(self, name: str, result: StageResult) -> None:
        message = result.message or result.summary
        with self._writing:
            self.journal.write("stage", name=name, state=result.state, key=result.key, message=message)
        self.reporter.stage_finished(name, result.state, message, result.seconds)

    def _is_up_to_date(self, name: str) -> bool:
        """Whether neither DVC nor anything upstream in this run gives a reason to look at the stage again."""
        return name not in self.stale and all(
            self.results[other].state == "cached" for other in self.graph.upstream[name]
        )

    def _work(self, spec: StageSpec) -> StageResult:
        """Have DVC run or restore the stage, on a GPU slot when it asks for one."""
        leases = self.workspace / ".rlhf" / "leases"
        slot = gpu_slot(leases / spec.name, self.stop, self.shown) if spec.meta.get("gpu") else nullcontext()
        with slot:
            if self.stop.is_set():
                return StageResult("stopped", Exit.PREEMPTED, "the run was stopped")
            self.reporter.stage_started(spec.name)
            outcome = self._supervise(spec)
            if outcome.state == "restored" and (damage := versioning.drop_damaged(self.workspace, spec)):
                self.reporter.message(f"{spec.name}: DVC's cache is damaged: {damage}. The stage is run instead")
                outcome = self._supervise(spec)
        if outcome.exit != Exit.DONE:
            return StageResult("failed", outcome.exit, outcome.message, key=outcome.key, seconds=outcome.seconds)
        clear_checkpoints(self.workspace, spec)
        summary = outcome.summary or {"restored": "from the cache", "cached": _rests(spec)}.get(outcome.state, "")
        return StageResult(outcome.state, summary=summary, key=outcome.key, seconds=outcome.seconds)

    def _supervise(self, spec: StageSpec) -> Outcome:
        progress = partial(self.reporter.progress, spec.name)
        return supervise(spec, self.workspace, self.run_id, self.stop, progress)


def retries(spec: StageSpec) -> int:
    """How often a passing fault of the stage is tried again."""
    return int(spec.meta.get("retries", 0))


def retry_delays(spec: StageSpec) -> list[float]:
    """Seconds before each retry."""
    first = float(spec.meta.get("retry_delay", RETRY_DELAY))
    return [first * 2**attempt for attempt in range(retries(spec))]


def _rests(spec: StageSpec) -> str:
    """Why a stage is not run."""
    return "frozen" if spec.frozen else "up to date"


def _prefect_state(result: StageResult) -> State:
    """The state that Prefect shows: Completed, Cached, Failed, Skipped or Stopped.

    The last two are of type Failed, because Prefect runs a task that waits for a Cancelled one not even to skip it.
    """
    match result.state:
        case "ran":
            return Completed(message=result.summary)
        case "restored" | "cached":
            return Completed(name="Cached", message=result.summary)
        case "failed":
            return Failed(message=f"{result.exit.name}: {result.message}")
        case _:
            return Failed(name=result.state.capitalize(), message=result.message)
