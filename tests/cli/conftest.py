"""A workspace of the small world that nothing has run in, and the command line on it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlhf.cli import app

SERVERS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RLHF_PREFECT_PORT", "RLHF_MLFLOW_PORT", "RLHF_DATA")


@pytest.fixture(autouse=True)
def no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no server and no port."""
    for name in SERVERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rlhf(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`rlhf ARGUMENTS` in this process; a fault of the program fails the test."""
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, catch_exceptions=False)

    return invoke


@pytest.fixture(scope="session")
def new_small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `small_world` is a copy of."""
    directory = tmp_path_factory.mktemp("new") / "small world"
    assert CliRunner().invoke(app, ["init", str(directory)], catch_exceptions=False).exit_code == 0
    return directory


@pytest.fixture
def small_world(new_small_world: Path, tmp_path: Path) -> Path:
    """A workspace made by `rlhf init`."""
    return shutil.copytree(new_small_world, tmp_path / "small world")  # a blank in a path must do no harm


@pytest.fixture
def rlhf_apart() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`rlhf ARGUMENTS` in a process of its own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rlhf", *map(str, arguments)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
