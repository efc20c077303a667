"""What starts each server, where it keeps its state, and how to ask whether it is well."""

import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rlhf import telemetry
from rlhf.pipeline.fingerprint import packages
from rlhf.services.ports import HOST
from rlhf.tracking.artifacts import DIRECTORY
from rlhf.tracking.sent import DATABASE, own_store

SETTINGS = telemetry.OFF | {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # not pickle, which runs what it reads
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    # the default forgets who holds a slot when the server dies, and the slot stays taken for ever
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": r"\Amodels:/m-[0-9a-f]{32}\Z",  # as our registry makes them
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
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
            place = urlsplit(address)
            open_to_all = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()  # health asks for no password
            with _opener(address).open(open_to_all.rstrip("/") + self.health, timeout=seconds):
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
    if server is PREFECT:
        return [sys.executable, "-m", "flows.guarded", str(port)]
    place = ["--host", HOST, "--port", str(port), "--allowed-hosts", ",".join(_names(port))]
    origins = ["--cors-allowed-origins", _origins(port)]
    store = ["--backend-store-uri", own_store(workspace)]
    artifacts = ["--artifacts-destination", (workspace / DIRECTORY).as_uri()]
    return [sys.executable, "-m", "mlflow", "server", *place, *origins, "--workers", "1", *store, *artifacts]


def environment(server: Server, workspace: Path, port: int) -> dict[str, str]:
    """The environment of a server of the workspace."""
    own = {
        server.setting: server.address(port),
        "PREFECT_HOME": str(prefect_home(workspace)),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": _origins(port),
    }
    return {**os.environ, **SETTINGS, **packages(), **own}


def _names(port: int) -> list[str]:
    """What a request may call a server of this machine."""
    return [f"{name}:{port}" for name in (HOST, "localhost")]


def _origins(port: int) -> str:
    """Whose pages may ask a server of this machine: its own."""
    return ",".join(f"http://{name}" for name in _names(port))


def prefect_home(workspace: Path) -> Path:
    """Where Prefect keeps its database and settings, for the server and its clients."""
    return workspace / ".rlhf" / "prefect"


def is_new(server: Server, workspace: Path) -> bool:
    """Whether the server has no database yet and must make one, which takes its time."""
    database = prefect_home(workspace) / "prefect.db" if server is PREFECT else workspace / DATABASE
    return not database.exists()


def _opener(address: str) -> urllib.request.OpenerDirector:
    """A proxy must not stand between two programs of one machine."""
    local = HOST in address or "//localhost" in address
    return urllib.request.build_opener(urllib.request.ProxyHandler({} if local else None))
