"""Register the deployments of infra/prefect.yaml for one workspace."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.server import client, ensure_limits
from rlhf.config.reading import read_yaml
from rlhf.errors import ConfigError, ServiceError
from rlhf.pipeline.fingerprint import ROOT

POOL = "rlhf"
INSTALLED = Path(__file__).parent / "prefect.yaml"  # a wheel has no infra/
FILE = INSTALLED if INSTALLED.is_file() else ROOT / "infra" / "prefect.yaml"


def deploy(workspace: Path, *, activate: bool = False) -> list[str]:
    """Register every deployment of infra/prefect.yaml, create the work pool and the limits; return the full names.
    Schedules stay off until `activate` is asked for, and are off again after a registration without it.
    Raises ConfigError outside a workspace and where the server has the deployments of another, ServiceError when the
    server does not answer.
    """
    workspace = workspace.resolve()
    if not (workspace / "dvc.yaml").is_file():
        raise ConfigError(f"{workspace} is not a workspace: it has no dvc.yaml. Make one: rlhf init DIR")
    names = [_full_name(entry) for entry in read_yaml(FILE)["deployments"]]
    with client() as connected:
        for name in names:
            _refuse_another(connected, name, workspace)
        ensure_limits(connected)
        _ensure_pool(connected)
        _register(workspace)
        for name in names if activate else ():
            deployment = connected.read_deployment_by_name(name)
            for schedule in deployment.schedules:
                connected.update_deployment_schedule(deployment.id, schedule.id, active=True)
    return names


def _full_name(entry: dict[str, Any]) -> str:
    """Prefect's name of a deployment, flow/deployment. A flow here has the name of its file."""
    return f"{Path(entry['entrypoint'].partition(':')[0]).stem}/{entry['name']}"


def _refuse_another(connected: SyncPrefectClient, name: str, workspace: Path) -> None:
    try:
        other = connected.read_deployment_by_name(name).parameters.get("workspace")
    except ObjectNotFound:
        return
    if other not in (None, str(workspace)):
        raise ConfigError(
            f"The deployment {name} of this Prefect server is for {other}, and a server has those of one workspace. "
            f"Name another server by PREFECT_API_URL; or, if that workspace is gone: prefect deployment delete {name}"
        )


def _ensure_pool(connected: SyncPrefectClient) -> None:
    try:
        connected.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        connected.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))


def _register(workspace: Path) -> None:
    """Let Prefect's own command read the file, as a person would."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    environment = {**os.environ, "RLHF_ROOT": str(ROOT), "RLHF_WORKSPACE": str(workspace)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServiceError(f"Prefect did not take {FILE}: {said[-1] if said else 'no message'}")
