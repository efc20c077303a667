"""`rlhf label`: the samples that people are to rank, and what they say."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, find_workspace, out
from rlhf.errors import DataError

if TYPE_CHECKING:
    from rlhf.data.labelling import Sampled

group = typer.Typer(name="label", help="Let people rank the samples, to learn from.", no_args_is_help=True)

CriterionOption = Annotated[str, typer.Option(metavar="NAME", help="By which they are ranked, as in reward.criteria.")]


@group.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write, .jsonl or .csv.", show_default=False)],
    prompts: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default="all")] = None,
    criterion: CriterionOption = "overall",
    workspace: WorkspaceOption = None,
) -> None:
    """Write the prompts whose answers nobody has ranked yet, with the answers that SFT gave, in an order that is drawn.

    Whoever ranks writes 1 beside the best answer, 2 beside the next, equal numbers for a tie; and a name into the
    column annotator.
    """
    from rlhf.data.labelling import STORE, columns, read_rankings, waiting
    from rlhf.sheets import write_sheet

    directory = find_workspace(workspace)
    found = _samples(directory)
    chosen = waiting(found, read_rankings(directory / STORE), criterion)[:prompts]
    if not chosen:
        raise DataError(f"Every sample has been ranked by `{criterion}`. More are drawn by a higher sample.prompts")
    write_sheet(file, (sample.task for sample in chosen), columns(found))
    by = "" if criterion == "overall" else f" --criterion {shlex.quote(criterion)}"
    out.print(
        Text(f"{len(chosen)} prompts are in {file}. When people have ranked: rlhf label import {file}{by}"),
        soft_wrap=True,
    )


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That people have filled in.", show_default=False)],
    criterion: CriterionOption = "overall",
    workspace: WorkspaceOption = None,
) -> None:
    """Add people's rankings to feedback/rankings.jsonl, which is a source of feedback as any other."""
    from rlhf.data.labelling import STORE, add_rankings, read_rankings, waiting
    from rlhf.pipeline.workspace import hold_workspace

    directory = find_workspace(workspace)
    found = _samples(directory)
    with hold_workspace(directory):
        brought = add_rankings(file, found, directory / STORE, criterion)
    left = len(waiting(found, read_rankings(directory / STORE), criterion))
    said = (
        f"{brought.new} new rankings, {brought.known} known before, {brought.empty} tasks left empty. "
        f"{left} of {len(found)} prompts wait for a first ranking"
    )
    out.print(Text(f"{said}. {_next(directory)}"), soft_wrap=True)


def _samples(workspace: Path) -> "dict[str, Sampled]":
    """What there is to rank. Raises DataError where nothing was sampled."""
    from rlhf.config import load_config
    from rlhf.data.labelling import sampled
    from rlhf.data.rows import read_rows

    config = load_config(workspace / "params.yaml")
    found = sampled(read_rows(workspace / "data/samples", "samples"), config.seed)
    if not found:
        raise DataError(
            f"{workspace} holds no prompt with different answers to rank. Draw them: rlhf run, which may end at label"
        )
    return found


def _next(workspace: Path) -> str:
    """What to do that a run learns from the rankings: the first time, name their file."""
    from rlhf.config import load_config
    from rlhf.config.data import FileSource
    from rlhf.data.labelling import STORE

    sources = load_config(workspace / "params.yaml").collect.sources
    if any(isinstance(source, FileSource) and Path(source.path) == STORE for source in sources):
        return "Next: rlhf run"
    return (
        "No source reads them yet. Add this line to collect.sources of params.yaml\n"
        f"    - {{kind: file, path: {STORE}, table: rankings, columns: {{}}}}\n"
        "and this path to the deps of the stage collect in dvc.yaml, which may have no deps yet\n"
        f"    deps: [{STORE}]\n"
        "Then: rlhf run"
    )
