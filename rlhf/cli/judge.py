"""`rlhf judge`: what people are to compare, and what they say."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, find_workspace, out
from rlhf.errors import ConfigError, DataError

LET_JUDGE = "rlhf run -S 'evaluate.judge={kind: people, verdicts: feedback/verdicts.jsonl, sha256: null}'"

group = typer.Typer(name="judge", help="Let people judge the policies.", no_args_is_help=True)


@group.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write, .jsonl or .csv.", show_default=False)],
    workspace: WorkspaceOption = None,
) -> None:
    """Write what the evaluation that stands has to compare: two answers a task, not saying whose they are.

    Whoever judges writes A, B or tie into the column winner, and a name into the column annotator.
    """
    from rlhf.config import load_config
    from rlhf.config.judges import People
    from rlhf.judges.people import write_tasks

    directory = find_workspace(workspace)
    tasks, judge = _tasks(directory), load_config(directory / "params.yaml").evaluate.judge
    write_tasks(file, tasks)
    said = (
        f"{len(tasks)} comparisons are in {file}. When people have judged: rlhf judge import {shlex.quote(str(file))}"
    )
    if not isinstance(judge, People):
        said += f". The judge is {judge.kind} as yet; verdicts are read once it is people: {LET_JUDGE}"
    out.print(Text(said), soft_wrap=True)


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That people have filled in.", show_default=False)],
    workspace: WorkspaceOption = None,
) -> None:
    """Add people's verdicts to those of the workspace, for the next run to judge by."""
    from rlhf.config import load_config
    from rlhf.config.editing import set_params
    from rlhf.config.judges import People
    from rlhf.judges.people import add_verdicts, read_verdicts
    from rlhf.manifest import sha256
    from rlhf.pipeline.workspace import hold_workspace

    directory = find_workspace(workspace)
    params = directory / "params.yaml"
    judge = load_config(params).evaluate.judge
    if not isinstance(judge, People):
        raise ConfigError(
            f"{params}: evaluate.judge is of kind {judge.kind}, which reads no verdicts of people. Let people judge: "
            + LET_JUDGE
        )
    tasks, store = _tasks(directory), directory / judge.verdicts
    with hold_workspace(directory):
        found = add_verdicts(file, tasks, store)
        if store.is_file():
            set_params(params, [f"evaluate.judge.sha256='{sha256(store)}'"])
    waiting = len(tasks.keys() - {one.task for one in read_verdicts(store)})
    said = (
        f"{found.new} new verdicts, {found.known} known before, {found.empty} tasks left empty. "
        f"{waiting} of {len(tasks)} comparisons wait for a first verdict. Next: rlhf run"
    )
    out.print(Text(said), soft_wrap=True)


def _tasks(workspace: Path) -> dict[str, dict[str, str]]:
    """Every comparison of the evaluation that stands. Raises DataError where none does."""
    from rlhf.config import load_config
    from rlhf.data.rows import read_rows
    from rlhf.judges.door import between
    from rlhf.judges.people import tasks
    from rlhf.manifest import verified

    config = load_config(workspace / "params.yaml")
    made = [workspace / f"reports/evaluate/{name}/rows" for name in config.align.algorithms]
    for directory in filter(Path.is_dir, made):
        verified(directory)
    rows: list[list[dict[str, Any]]] = [read_rows(directory, "rows") for directory in made]
    if not any(rows):
        raise DataError(f"{workspace} holds no evaluation whose answers could be compared. Make one: rlhf run")
    opponents = ("sft", "champion")
    compared = (between(some, name) for some in rows for name in opponents if some and f"{name}_response" in some[0])
    return tasks(one for each in compared for one in each)
