"""The MLflow store of a workspace: how to reach it, under which experiment, and what its failures are to a user."""

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import Busy, ServiceError
from rlhf.failpoints import reach
from rlhf.tracking.sent import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A server that is down must cost seconds: by default one call blocks for four minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
TRANSFER_SECONDS = "600"
_CHANGES = ("create_", "delete_", "finalize_", "log_", "set_", "update_")  # how calls begin that change the store


@dataclass(frozen=True)
class Store:
    """A client of the store, and the experiment that the workspace's runs are in."""

    client: "MlflowClient"
    uri: str
    experiment_id: str
    prefix: str  # experiment name; registered models are `<prefix>-sft`, ...

    def link(self, run_id: str) -> str:
        """Address of a run, relative to MLflow's pages."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}"


def connect(workspace: Path) -> Store:
    """Open the store; make the experiment when it is not there. Raises ServiceError when the store does not answer."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri(workspace)
    with reaching(uri):
        client = _with_failpoints(MlflowClient(tracking_uri=uri, registry_uri=uri))
        prefix = experiment_name(workspace)
        return Store(client, uri, _experiment(client, prefix, workspace), prefix)


def experiment_name(workspace: Path) -> str:
    """RLHF_EXPERIMENT, or the name of the workspace's directory."""
    return os.environ.get("RLHF_EXPERIMENT") or workspace.resolve().name


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when a store does not answer, or refuses, into a ServiceError of one line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ServiceError(
            f"MLflow at {_without_password(uri)} does not take the records: {_without_password(reason)}. "
            "Nothing is lost: start the server (`rlhf up`) or correct MLFLOW_TRACKING_URI, then run `rlhf sync`"
        ) from error


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Make `uri` MLflow's default: its SQLite registry looks logged models up there, not in the client's own store."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before or "")
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


@contextmanager
def transferring() -> Iterator[None]:
    """Give a server time to store a large file before it answers."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = TRANSFER_SECONDS
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before


def registering(workspace: Path) -> AbstractContextManager[None]:
    """Hold what a process must hold that looks whether a model or an edge is there and then makes it."""
    return locked(workspace / ".rlhf/registry.lock", 600.0, "registers models")


@contextmanager
def locked(path: Path, seconds: float, what: str) -> Iterator[None]:
    """Hold the kernel's lock on `path`, waiting for it at most `seconds`. Raises Busy, saying `what` another does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with open(path, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"Another process {what} ({path} is locked). Wait until it ends") from None
                time.sleep(0.05)
        yield


def _with_failpoints(client: "MlflowClient") -> "MlflowClient":
    """The client, with a place before and a place after each call that changes the store."""
    for name in dir(client):
        if name.startswith(_CHANGES):
            setattr(client, name, _between_failpoints(name, getattr(client, name)))
    return client


def _between_failpoints(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def between(*values: Any, **named: Any) -> Any:
        reach(f"before {name}")
        found = call(*values, **named)
        reach(f"after {name}")
        return found

    return between


def _experiment(client: "MlflowClient", name: str, workspace: Path) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        local = tracking_uri(workspace).startswith("sqlite:")
        artifacts = (workspace.resolve() / "mlartifacts").as_uri() if local else None
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:  # made by another process just now
            experiment = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ServiceError(
            f"MLflow's experiment `{name}` is deleted. Restore it (`mlflow experiments restore -x "
            f"{experiment.experiment_id}`), or set RLHF_EXPERIMENT to another name"
        )
    return experiment.experiment_id


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://***@", text)
