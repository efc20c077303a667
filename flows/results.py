"""What a run reports while it goes on, and what it returns. Light: nothing of Prefect is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rlhf.errors import Exit

State = Literal[
    "ran",  # its command ran and succeeded
    "restored",  # DVC had its outputs from an earlier equal run
    "cached",  # nothing to do
    "failed",
    "skipped",  # a stage that it waits for failed
    "stopped",  # the run was stopped before it began
]
GOOD = frozenset({"ran", "restored", "cached"})


@dataclass(frozen=True)
class StageResult:
    """How one stage ended."""

    state: State
    exit: Exit = Exit.DONE
    message: str = ""  # of a failure: what, where, what to do
    summary: str = ""  # of a stage that ran, its own line
    key: str | None = None  # stage key, when it ran
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the outputs of the stage stand."""
        return self.state in GOOD


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    id: str
    stages: Mapping[str, StageResult]
    exit: Exit  # of the first stage that failed, in the order of the graph; PREEMPTED where none did and it was stopped
    decision: Mapping[str, Any] | None = None  # reports/gate/decision.json, when the gate's output stands
    promotion: str | None = None  # what promoting did, when there was something to promote
    synced: bool = True  # whether MLflow has everything
    stopped: bool = False  # whether a signal ended it


class Reporter(Protocol):
    """Who shows a run. The calls come from several threads."""

    def stage_started(self, name: str) -> None:
        """A stage begins; not called for a stage that is up to date."""

    def progress(self, name: str, done: int, total: int, label: str) -> None:
        """How far a stage is."""

    def stage_finished(self, name: str, state: State, summary: str, seconds: float) -> None:
        """A stage ended; `summary` is its line, or the message of its failure."""

    def message(self, text: str) -> None:
        """Something else to tell."""


class Silent:
    """A reporter that shows nothing: runs of a worker are seen in Prefect."""

    def stage_started(self, name: str) -> None:
        """See Reporter."""

    def progress(self, name: str, done: int, total: int, label: str) -> None:
        """See Reporter."""

    def stage_finished(self, name: str, state: State, summary: str, seconds: float) -> None:
        """See Reporter."""

    def message(self, text: str) -> None:
        """See Reporter."""
