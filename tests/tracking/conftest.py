"""Workspaces of small files, and one MLflow server for the session."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import Exit
from rlhf.manifest import MANIFEST, sha256
from rlhf.services import servers
from rlhf.services.servers import MLFLOW
from rlhf.serving import Probe, serve_probe
from rlhf.tracking import served
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.conftest import free_port
from tests.tracking.workspace import Workspace, make_workspace, write_decision


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has the store of its own workspace."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RLHF_EXPERIMENT", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _each_model_is_served_once() -> Iterator[None]:
    """What a fresh process said of files is asked of it once a session: loading transformers takes seconds."""
    real, known = serve_probe, dict[str, Probe]()

    def remembered(directory: Path, prompts: Any, **settings: Any) -> Probe:
        read = [sha256(path) for path in sorted(directory.iterdir()) if path.name not in ("receipt.json", MANIFEST)]
        key = json.dumps([read, prompts, settings])
        known[key] = known.get(key) or real(directory, prompts, **settings)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "serve_probe", remembered)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """SQLite need not see every commit on the disk: no test cuts the power."""
    from sqlalchemy import Engine, event

    def hasten(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hasten)
    yield
    event.remove(Engine, "connect", hasten)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's tables and nothing in them: making them takes seconds."""
    directory = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.delenv("RLHF_EXPERIMENT", raising=False)
        connect(directory)
    (directory / "mlflow.db").rename(directory / "empty.db")
    with closing(sqlite3.connect(directory / "empty.db")) as store:
        store.execute("DELETE FROM experiments WHERE name = ?", [directory.name])
        store.commit()
    return directory / "empty.db"


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path) -> Workspace:
    """A workspace whose stages have run and whose gate lets dpo through."""
    return _made(tmp_path / "small", empty_store)


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Workspace:
    """A workspace whose records have been sent, once for all tests: to be looked at, not changed."""
    made = _made(tmp_path_factory.mktemp("synced") / "small", empty_store)
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.delenv("RLHF_EXPERIMENT", raising=False)
        assert sync(made.path) == Exit.DONE
    return made


def _made(path: Path, empty_store: Path) -> Workspace:
    made = make_workspace(path)
    shutil.copy(empty_store, made.path / "mlflow.db")
    write_decision(made)
    return made


class Server:
    """An MLflow server on loopback that can be stopped and started again with the same store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = servers.command(MLFLOW, self.directory, self.port)
        environment = servers.environment(MLFLOW, self.directory, self.port)
        with open(self.directory / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "server.log").read_text())
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, 15)
            self._process.wait(30)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server. A test that stops it starts it again."""
    running = Server(tmp_path_factory.mktemp("mlflow"))
    running.start()
    yield running
    running.stop()
