"""`rlhf deploy` and `rlhf sync`: schedules in Prefect, records in MLflow."""

from typing import Annotated

import typer
from rich.text import Text

from rlhf.cli.console import JsonOption, WorkspaceOption, err, find_workspace, out, print_json
from rlhf.errors import Exit
from rlhf.secrets import redact


def deploy(
    activate: Annotated[bool, typer.Option("--activate", help="Switch the schedules on, too.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Register the deployments of infra/prefect.yaml in Prefect. Their schedules stay off without --activate."""
    from rlhf.services.local import ensure_prefect

    directory = find_workspace(workspace)
    with err.status("Looking for the Prefect server") as status:
        prefect = ensure_prefect(directory, status.update)
        status.update("Registering the deployments")
        from flows import deploy as deployments

        names = deployments.deploy(directory, activate=activate)
    if as_json:
        print_json({"deployments": names, "active": activate, "prefect": redact(prefect.address)})
        return
    for name in names:
        out.print(Text(f"{name}  schedule {'on' if activate else 'off'}"), soft_wrap=True)
    command = f"DO_NOT_TRACK=1 PREFECT_API_URL={redact(prefect.address)} prefect worker start --pool {deployments.POOL}"
    out.print(Text(f"Scheduled runs need a worker: {command}"), soft_wrap=True)


def sync(workspace: WorkspaceOption = None) -> None:
    """Send to MLflow what it does not have yet: runs, metrics, models, aliases. What it has is not sent again."""
    from rlhf.tracking.sender import sync as send

    directory = find_workspace(workspace)
    with err.status("Sending to MLflow"):
        ended = send(directory)
    if ended != Exit.DONE:
        raise typer.Exit(int(ended))
    out.print("MLflow has everything.")


COMMANDS = (deploy, sync)
