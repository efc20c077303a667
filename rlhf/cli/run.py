"""`rlhf run`: the whole pipeline, watched."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhf.cli.console import INTERRUPTED, JsonOption, WorkspaceOption, err, find_workspace, out, print_json
from rlhf.errors import Exit, UserError
from rlhf.garbage import loading
from rlhf.secrets import redact

if TYPE_CHECKING:
    from flows.results import RunResult
    from rlhf.services.local import Service


def run(
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-S",
            metavar="KEY=VALUE",
            help="Set a key of params.yaml first, as in -S align.dpo.beta=0.1. May be given more than once.",
            show_default=False,
        ),
    ] = None,
    promote: Annotated[bool, typer.Option(help="Make the winner the champion when the gate lets it through.")] = True,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Run the pipeline: from human feedback to a promoted policy. What is up to date is not run again.

    A policy that the gate refuses is a result, not a failure: the exit code is 0 when the pipeline came to its end.
    """
    directory = find_workspace(workspace)
    _prepare(directory, assignments or [])
    console = err if as_json else out
    prefect = prefect_server(directory, console)
    result = _run(directory, promote, console)
    if as_json:
        print_json(_to_json(result, directory))
    elif result.exit == Exit.DONE:
        _show_end(result, directory, prefect)
    leave(result)


def _prepare(directory: Path, assignments: list[str]) -> None:
    """Edit and check params.yaml, but not under a run that reads it. Raises Busy, ConfigError."""
    from rlhf.config import load_config
    from rlhf.pipeline.workspace import hold_workspace

    with hold_workspace(directory):
        if assignments:
            from rlhf.config.editing import set_params

            set_params(directory / "params.yaml", assignments)
        load_config(directory / "params.yaml")


def prefect_server(directory: Path, console: Console) -> "Service":
    """The Prefect server that the run reports to, started when there is none."""
    from rlhf.services.local import ensure_prefect

    with console.status("Looking for the Prefect server") as status:
        service = ensure_prefect(directory, status.update)
    if service.fresh:
        console.print(f"Prefect is started at {service.pages}; it stays up until `rlhf down`", style="dim")
    return service


def _run(directory: Path, promote: bool, console: Console) -> "RunResult":
    from flows.records import sending
    from rlhf.cli.live import reporter

    with sending(directory) as sender, reporter(console) as shown:
        with loading():
            from flows import align  # Prefect, while the sender loads MLflow
        return align.run(directory, sender, reporter=shown, promote=promote)


def _show_end(result: "RunResult", directory: Path, prefect: "Service") -> None:
    """The table, the decision, the examples, and where to look next."""
    from rlhf.cli.render import render_summary
    from rlhf.report.summary import load_summary
    from rlhf.services.local import recorded
    from rlhf.services.servers import MLFLOW

    out.print(render_summary(load_summary(directory)))
    if result.promotion:
        out.print(Text(result.promotion), soft_wrap=True)
    mlflow = next((service.pages for service in recorded(directory) if service.server is MLFLOW), None)
    out.print("\nWhere to look next", style="bold")
    for what, where in {
        "gate": str(directory / "reports" / "gate.html"),
        "report": str(directory / "reports" / "report.html"),
        "Prefect": prefect.pages,
        "MLflow": redact(MLFLOW.elsewhere() or mlflow or "start its pages: rlhf up"),
        "lineage": "rlhf lineage",
        "talk": "rlhf chat",
    }.items():
        out.print(Text(f"  {what:8} {where}"), soft_wrap=True)


def leave(result: "RunResult") -> None:
    """End with the run's exit code, and with one message when it is not 0."""
    if result.exit == Exit.DONE:
        return
    if result.stopped and result.exit == Exit.PREEMPTED:
        err.print("Stopped. `rlhf run` goes on from the last checkpoint.", style="yellow")
        raise typer.Exit(INTERRUPTED)
    failed = [f"{name}: {stage.message}" for name, stage in result.stages.items() if stage.state == "failed"]
    err.print(Text(f"error: {'; '.join(failed) or result.promotion}", style="bold red"), soft_wrap=True)
    raise typer.Exit(int(result.exit))


def _to_json(result: "RunResult", directory: Path) -> dict[str, Any]:
    from rlhf.report.summary import load_summary

    value = asdict(result)
    value["stages"] = {name: asdict(stage) for name, stage in result.stages.items()}
    try:
        value["models"] = [asdict(row) for row in load_summary(directory).rows]
    except UserError:  # the run did not come so far
        value["models"] = []
    return value


COMMANDS = (run,)
