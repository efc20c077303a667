"""What starts each server, where it keeps its state, and how to ask whether it is well."""

import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rlhf.services.ports import HOST

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    # the default forgets who holds a slot when the server dies, and the slot stays taken for ever
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes less
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Server:
    """One kind of server."""

    name: str  # prefect, mlflow
    title: str
    usual_port: int
    setting: str  # environment variable that names a server to use instead
    health: str  # path that answers 200 when the server is well, after the value of `setting`
    api: str  # what follows the address of the pages in `setting`

    def elsewhere(self) -> str | None:
        """The server that the environment names, as it is written there."""
        return os.environ.get(self.setting) or None

    def address(self, port: int) -> str:
        """Value of `setting` for a server of this machine."""
        return f"http://{HOST}:{port}{self.api}"

    def pages(self, address: str) -> str:
        """Where a browser finds the server that `setting` names."""
        return address.rstrip("/").removesuffix(self.api)

    def trouble(self, address: str, seconds: float = 5.0) -> str | None:
        """What is wrong with the server at `address`; None when it is well."""
        if not address.startswith(("http://", "https://")):
            return None  # a database: there is no server to ask
        try:
            with _opener(address).open(address.rstrip("/") + self.health, timeout=seconds):
                return None
        except urllib.error.HTTPError as error:
            return None if error.code in (401, 403) else f"it answers with HTTP status {error.code}"
        except (OSError, ValueError) as error:  # URLError is an OSError
            return f"it does not answer ({getattr(error, 'reason', error)})"


PREFECT = Server("prefect", "Prefect", 4200, "PREFECT_API_URL", "/health", "/api")
MLFLOW = Server("mlflow", "MLflow", 5000, "MLFLOW_TRACKING_URI", "/health", "")
SERVERS = (PREFECT, MLFLOW)


def command(server: Server, workspace: Path, port: int) -> list[str]:
    """The command line that starts a server of the workspace."""
    place = ["--host", HOST, "--port", str(port)]
    if server is PREFECT:
        return [sys.executable, "-m", "prefect", "server", "start", *place]
    store = ["--backend-store-uri", f"sqlite:///{workspace}/mlflow.db"]
    artifacts = ["--artifacts-destination", (workspace / "mlartifacts").as_uri()]
    return [sys.executable, "-m", "mlflow", "server", *place, "--workers", "1", *store, *artifacts]


def environment(server: Server, workspace: Path, address: str) -> dict[str, str]:
    """The environment of a server of the workspace."""
    own = {server.setting: address, "PREFECT_HOME": str(prefect_home(workspace))}
    return {**os.environ, **SETTINGS, **own}


def prefect_home(workspace: Path) -> Path:
    """Where Prefect keeps its database and settings, for the server and its clients."""
    return workspace / ".rlhf" / "prefect"


def is_new(server: Server, workspace: Path) -> bool:
    """Whether the server has no database yet and must make one, which takes its time."""
    database = prefect_home(workspace) / "prefect.db" if server is PREFECT else workspace / "mlflow.db"
    return not database.exists()


def _opener(address: str) -> urllib.request.OpenerDirector:
    """A proxy must not stand between two programs of one machine."""
    local = HOST in address or "//localhost" in address
    return urllib.request.build_opener(urllib.request.ProxyHandler({} if local else None))
