"""The MLflow store of a workspace: how to reach it, under which experiment, and what its failures are to a user."""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from rlhf import telemetry
from rlhf.errors import ServiceError, first_line
from rlhf.failpoints import reach
from rlhf.locks import hold
from rlhf.tracking import artifacts
from rlhf.tracking.identity import experiment_name, identity
from rlhf.tracking.sent import DATABASE, own_store, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"  # seconds of silence
# A server that is down must cost seconds: by default one call blocks for four minutes.
_ENVIRONMENT = telemetry.OFF | {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    _TIMEOUT: "5",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # it may ask for hours, and we ask again anyway
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
DOWNLOAD_SECONDS = 600.0
UPLOADS = ("log_artifacts", "log_model_artifacts")  # each of the directory that is its second argument
RACES = 3  # that one request may lose
SLOWEST = 100_000.0  # bytes a second: an upload that is slower is broken off


class _Requests:
    """MLflow's client, each of whose calls ends in time, an upload in the time that its size allows, and is a failpoint
    when it has changed something.

    This is the one place where the store is asked for anything but the bytes of a download.
    """

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def request(*arguments: Any, **named: Any) -> Any:
            size = sum(file.stat().st_size for file in Path(arguments[1]).rglob("*")) if name in UPLOADS else 0
            seconds = 4 * patience() + size / SLOWEST  # a request and its retry, each late and slow
            with _in_time(name, seconds), transferring(seconds) if size else nullcontext():
                answer = _raced(lambda: method(*arguments, **named))
            if not name.startswith(("get_", "search_", "list_")):
                reach(f"mlflow {name}")
            return answer

        return request


@dataclass(frozen=True)
class Store:
    """A client of the store, and the experiment that the workspace's runs are in."""

    client: "MlflowClient"
    uri: str
    experiment_id: str
    prefix: str  # experiment name; registered models are `<prefix>-sft`, ...
    owner: str  # this workspace, as its runs name it

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
    artifacts.serve_beside_database()
    uri, own = tracking_uri(workspace), identity(workspace)
    if uri == own_store(workspace):
        with suppress(OSError):  # what cannot be written MLflow tells
            (workspace / DATABASE).touch(mode=0o600)  # its owner's alone, whichever command makes it
    with reaching(uri):
        client = cast("MlflowClient", _Requests(MlflowClient(tracking_uri=uri, registry_uri=uri)))
        prefix = experiment_name(own)
        return Store(client, uri, _experiment(client, prefix, uri), prefix, own.id)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when a store does not answer, or refuses, into a ServiceError of one line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = first_line(error)[:300]
        raise ServiceError(
            f"MLflow at {uri} does not take the records: {reason}. "
            "Nothing is lost: start the server (`rlhf up`) or correct MLFLOW_TRACKING_URI, then run `rlhf sync`"
        ) from None


@contextmanager
def expecting(code: str) -> Iterator[None]:
    """Let MLflow's refusal with this error code pass, which says that what is asked for is so already.

    Another process may have been faster, or this one: the client repeats a request whose answer it did not get.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


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
def transferring(seconds: float) -> Iterator[None]:
    """Give a server so long to store a large file before it answers; the user's time-out counts where it is longer."""
    before = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = str(math.ceil(max(float(before), seconds)))
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = before


def patience() -> float:
    """Seconds before a store that did not answer is asked again: as long as it may be silent."""
    return float(os.environ[_TIMEOUT])


def _raced(request: Callable[[], Any]) -> Any:
    """Ask again for what another client was faster with: that request found no such row, and one at its own insert.

    MLflow takes such a request back as a whole and calls it BAD_REQUEST, as it does what no repetition mends.
    """
    from mlflow.exceptions import MlflowException

    for _ in range(RACES):
        try:
            return request()
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
    return request()


@contextmanager
def _in_time(call: str, seconds: float) -> Iterator[None]:
    """Break a call off that goes on for ever because something comes now and then: `_TIMEOUT` is of silence only.

    By the alarm of the main thread, from which alone a store is asked.
    """

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise ServiceError(f"no whole answer to {call} within {seconds:g} s")

    before, left = signal.signal(signal.SIGALRM, late), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


def registering(workspace: Path) -> AbstractContextManager[None]:
    """Hold what a process must hold that looks whether a model or an edge is there and then makes it."""
    return hold(workspace / ".rlhf/registry.lock", f"The list of models of {workspace} in MLflow", 600.0)


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        place = artifacts.ROOT if artifacts.is_local(uri) else None  # a server says itself where
        try:
            return client.create_experiment(name, artifact_location=place)
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
