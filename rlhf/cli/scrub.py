"""`rlhf scrub`: read everything that a workspace keeps, and mend what is damaged."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from rlhf.cli.console import JsonOption, WorkspaceOption, err, find_workspace, out, print_json
from rlhf.errors import Exit


def scrub(
    check: Annotated[bool, typer.Option("--check", help="Only report; change nothing.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Read DVC's cache, outputs, checkpoints and records, and mend what is damaged. Exit code 11 when some remains.

    What is damaged is moved to .rlhf/damaged, and fetched or restored where there is a good copy.
    """
    from rlhf.pipeline.scrub import scrub as look

    directory, found = find_workspace(workspace), []
    with err.status("Reading") as status:
        for one in look(
            directory, mend=not check, progress=lambda *p: status.update("Reading {}: {} of {}".format(*p))
        ):
            found.append(one)
            if not as_json:
                said = f"{len(one.damaged)} damaged" if one.damaged else "whole" if one.count else "none"
                out.print(Text.assemble(f"{one.kind:16}{one.count:7}  ", (said, "red" if one.damaged else "green")))
    damaged = [damage for one in found for damage in one.damaged]
    if as_json:
        kinds = {one.kind: {"count": one.count, "damaged": len(one.damaged)} for one in found}
        print_json({"kinds": kinds, "damaged": [{**asdict(damage), "path": str(damage.path)} for damage in damaged]})
    else:
        for damage in damaged:
            out.print(Text(str(damage)), soft_wrap=True)
    if not all(damage.mended for damage in damaged):
        raise typer.Exit(int(Exit.DATA))


COMMANDS = (scrub,)
