"""Shared fixtures: a toy workspace, and one Prefect server a test session."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rlhf.pipeline.events import Events
from rlhf.pipeline.graph import StageSpec, load_graph
from rlhf.pipeline.stage import Stage
from rlhf.services import servers
from rlhf.services.servers import PREFECT

TOY = Path(__file__).parent / "pipeline" / "toy"
ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on the CPU, in fp32, but under `-m gpu`; by no proxy, and by nobody's own settings of git."""
    if not config.option.markexpr.startswith("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"no_proxy": "127.0.0.1,localhost", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: who works on them is not the last to end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What has been imported stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `workspace` is a copy of."""
    from rlhf.pipeline import fingerprint, versioning

    directory = tmp_path_factory.mktemp("toy") / "workspace"
    shutil.copytree(TOY, directory)
    versioning.init_workspace(directory)
    fingerprint.refresh(directory)
    return directory


@pytest.fixture
def workspace(new_workspace: Path, tmp_path: Path) -> Path:
    """A toy workspace under git and DVC: tests/pipeline/toy, none of whose stages has run."""
    return shutil.copytree(new_workspace, tmp_path / "workspace")


@pytest.fixture(scope="session")
def finished_workspace(new_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `finished` is a copy of."""
    directory = shutil.copytree(new_workspace, tmp_path_factory.mktemp("finished") / "workspace")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def finished(finished_workspace: Path, tmp_path: Path) -> Path:
    """A toy workspace in which `dvc repro` has run every stage."""
    return shutil.copytree(finished_workspace, tmp_path / "finished")


@pytest.fixture
def run_program(workspace: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the toy workspace by hand, as `python rows.py`, and wait for it."""

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on loopback for the whole session, with a store of its own; yields the address of its API."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",  # schedules that tests make are planned at once
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",  # shared: a new one costs seconds of migrations
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    (home / "concurrency_leases").mkdir()
    (home / "concurrency_leases" / "expirations.lock").write_text(str(os.getpid()))  # as a killed server may leave it
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(
            servers.command(PREFECT, home, port),
            env=servers.environment(PREFECT, home, port) | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for_health(url, server, home / "server.log")
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):  # Prefect may have been imported already
            yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def run_here(workspace: Path, name: str, program: ModuleType) -> StageSpec:
    """Run a stage in this process, which saves the imports of another; what dvc.yaml says of it."""
    spec = load_graph(workspace).stages[name]
    stage = Stage(spec, workspace, "", Events(name))
    with stage.running():
        program.main(stage)
    return spec


def copy_pipeline(workspace: Path) -> None:
    """Make a directory a workspace of the pipeline that this repository is."""
    for name in ("dvc.yaml", "params.yaml", "champion.json"):
        shutil.copy(ROOT / name, workspace)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll until `condition` holds; fail, naming `what`, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def _wait_for_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    def healthy() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, TimeoutError):
            return False

    wait_until(healthy, "the Prefect server's answer", 120.0)
