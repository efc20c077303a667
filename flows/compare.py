"""The flow `compare`: the same SFT and reward model, several algorithms, several trainings of each."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows import align
from flows.records import sending
from flows.results import Reporter, RunResult, Silent
from flows.server import Shown, never_began, quiet_console
from rlhf.config import load_config
from rlhf.errors import Exit
from rlhf.pipeline.graph import PARAMS
from rlhf.pipeline.readable import require_workspace
from rlhf.pipeline.workspace import hold_workspace, lent
from rlhf.report import comparison
from rlhf.report.comparison import Comparison, Trial

Outcome = tuple[RunResult, Comparison | None]


@dataclass
class _Watched:
    """A comparison that somebody waits for, here."""

    reporter: Reporter
    outcome: Outcome | None = None


_WATCHED: ContextVar[_Watched | None] = ContextVar("watched", default=None)


@flow(name="compare", persist_result=False)
def compare(workspace: str, algorithms: list[str], seeds: list[int], snapshots: int, noise_steps: int) -> Outcome:
    """Run the flow `align` once for each value of `align.seed`, promote nothing, and write reports/compare.html.

    An algorithm whose data the workspace does not have, such as beliefs, is left out, and the page says why.
    snapshots, noise_steps: what every training has measured beside, as `align.snapshots` and `align.noise_steps`.
    """
    watched = _WATCHED.get() or _Watched(Silent())
    watched.outcome = _compare(Path(workspace).resolve(), algorithms, seeds, snapshots, noise_steps, watched.reporter)
    return watched.outcome


def _compare(
    directory: Path, algorithms: list[str], seeds: list[int], snapshots: int, noise_steps: int, reporter: Reporter
) -> Outcome:
    remaining, left_out, trials = list(algorithms), dict[str, str](), list[Trial]()

    def train(seed: int) -> RunResult:
        same = [f"algorithms=[{', '.join(remaining)}]", f"snapshots={snapshots}", f"noise_steps={noise_steps}"]
        settings = [f"align.{setting}" for setting in (f"seed={seed}", *same)]
        with sending(directory) as sender, lent(directory, settings):
            return align.run(directory, sender, reporter=reporter, promote=False, held=True)

    require_workspace(directory)
    with hold_workspace(directory):  # to the end: what a training leaves is read before another run may replace it
        for seed in seeds:
            result = train(seed)
            if (lacking := _lacking(result)) and len(lacking) < len(remaining):
                left_out |= lacking
                remaining = [name for name in remaining if name not in lacking]
                reporter.message(f"left out, for want of what they learn from: {', '.join(lacking)}")
                result = train(seed)
            if result.exit != Exit.DONE:
                return result, None
            trials += comparison.read_trials(directory, remaining, seed)
        return result, comparison.write(directory, trials, left_out, load_config(directory / PARAMS))


def _lacking(result: RunResult) -> dict[str, str]:
    """The algorithms that a run had not the data for, and what each of them lacks."""
    trained = {name.partition("@")[2]: stage for name, stage in result.stages.items() if name.startswith("align@")}
    return {name: stage.message for name, stage in trained.items() if stage.exit == Exit.DATA}


def run(
    workspace: Path,
    algorithms: Sequence[str],
    seeds: Sequence[int],
    *,
    snapshots: int,
    noise_steps: int,
    reporter: Reporter,
) -> Outcome:
    """Run the flow here and now; the last run, and the table, which is None when that run failed.

    params.yaml is as it was after each training: the next run brings its policies back from DVC's cache. Raises as
    `flows.align.run`, and ConfigError for an algorithm that there is not.
    """
    quiet_console()
    token = _WATCHED.set(watched := _Watched(reporter))
    try:
        with Shown(reporter.message).ending():
            compare(str(workspace), list(algorithms), list(seeds), snapshots, noise_steps)
    finally:
        _WATCHED.reset(token)
    if watched.outcome is None:
        raise never_began()
    return watched.outcome
