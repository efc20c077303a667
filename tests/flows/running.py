"""Runs of the flow on a toy pipeline, and what is known of them afterwards."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.results import RunResult
from rlhf.errors import Exit
from rlhf.tracking.journal import read
from tests.conftest import wait_until

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


def run(workspace: Path, told: Told | None = None) -> RunResult:
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

    def tasks() -> list[Any]:
        with client() as connected:
            return connected.read_task_runs(flow_run_filter=wanted)

    wait_until(lambda: len(tasks()) >= len(ALL) and all(t.state.is_final() for t in tasks()), "the server's news")
    return {task.name: (task.state.name, task.state.message or "") for task in tasks()}
