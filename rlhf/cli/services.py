"""`rlhf up` and `rlhf down`: the pages of Prefect and MLflow on this machine."""

from typing import Annotated

import typer

from rlhf.cli.console import JsonOption, WorkspaceOption, err, find_workspace, out, print_json
from rlhf.secrets import redact


def up(
    prefect_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="[default: 4200 or the next that is free]", show_default=False)
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="[default: 5000 or the next that is free]", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Start the Prefect and MLflow servers of the workspace; they listen on 127.0.0.1 until `rlhf down`.

    PREFECT_API_URL and MLFLOW_TRACKING_URI name servers to use instead; RLHF_PREFECT_PORT and RLHF_MLFLOW_PORT set
    ports.
    """
    from rlhf.services.local import up as start

    directory = find_workspace(workspace)
    with err.status("Starting the services") as status:
        services = start(directory, {"prefect": prefect_port, "mlflow": mlflow_port}, status.update)
    if as_json:
        print_json({service.server.name: redact(service.address) for service in services})
        return
    for service in services:
        named = "" if service.process else f" (named by {service.server.setting})"
        out.print(f"{service.server.title:8} {service.pages}{named}", soft_wrap=True)


def down(workspace: WorkspaceOption = None) -> None:
    """Stop the servers that `rlhf up` or `rlhf run` started in this workspace."""
    from rlhf.services.local import down as stop

    stopped = stop(find_workspace(workspace))
    for service in stopped:
        out.print(f"{service.server.title} at {service.pages} is stopped", soft_wrap=True)
    if not stopped:
        out.print("No server of this workspace runs.")


COMMANDS = (up, down)
