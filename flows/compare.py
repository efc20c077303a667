"""The flow `compare`: the same SFT and reward model, several algorithms, several trainings of each."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path

from prefect import flow

from flows import align
from flows.records import sending
from flows.results import Reporter, RunResult, Silent
from flows.server import quiet_console
from rlhf import durable
from rlhf.config import load_config
from rlhf.config.editing import set_params
from rlhf.errors import Exit
from rlhf.pipeline.graph import PARAMS
from rlhf.pipeline.lock import hold
from rlhf.report import comparison
from rlhf.report.comparison import Comparison, Trial

_REPORTER: ContextVar[Reporter] = ContextVar("reporter")


@flow(name="compare", persist_result=False)
def compare(
    workspace: str, algorithms: list[str], seeds: list[int], snapshots: int, noise_steps: int
) -> tuple[RunResult, Comparison | None]:
    """Run the flow `align` once for each value of `align.seed`, promote nothing, and write reports/compare.html.

    snapshots, noise_steps: what every training has measured beside, as `align.snapshots` and `align.noise_steps`.
    """
    directory, trials = Path(workspace).resolve(), list[Trial]()
    same = [f"algorithms=[{', '.join(algorithms)}]", f"snapshots={snapshots}", f"noise_steps={noise_steps}"]
    for seed in seeds:
        with _alone(directory):
            set_params(directory / PARAMS, [f"align.{setting}" for setting in (f"seed={seed}", *same)])
        with sending(directory) as sender:
            result = align.run(directory, sender, reporter=_REPORTER.get(Silent()), promote=False)
        if result.exit != Exit.DONE:
            return result, None
        trials += comparison.read_trials(directory, algorithms, seed)
    return result, comparison.write(directory, trials, load_config(directory / PARAMS))


def run(
    workspace: Path,
    algorithms: Sequence[str],
    seeds: Sequence[int],
    *,
    snapshots: int,
    noise_steps: int,
    reporter: Reporter,
) -> tuple[RunResult, Comparison | None]:
    """Run the flow here and now; the last run, and the table, which is None when that run failed.

    params.yaml is as it was when this returns: the next run brings its policies back from DVC's cache. Raises as
    `flows.align.run`, and ConfigError for an algorithm that there is not.
    """
    quiet_console()
    params = workspace / PARAMS
    with _alone(workspace):
        before, token = params.read_text(encoding="utf-8"), _REPORTER.set(reporter)
    try:
        return compare(str(workspace), list(algorithms), list(seeds), snapshots, noise_steps)
    finally:
        _REPORTER.reset(token)
        durable.write_text(params, before)


def _alone(workspace: Path) -> AbstractContextManager[None]:
    """No run reads params.yaml meanwhile. Raises Busy."""
    return hold(workspace / ".rlhf" / "run.lock", f"The workspace {workspace}")
