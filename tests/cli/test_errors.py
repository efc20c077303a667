"""A user's mistake gets one message on standard error and a typed exit code; nothing of the workspace is lost."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf.pipeline.lock import hold
from tests.conftest import free_port

Apart = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_outside_a_workspace(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    for command in ("run", "status", "lineage", "promote", "up", "doctor", "chat"):
        result = rlhf(command, "-C", tmp_path)
        assert (result.exit_code, command) == (10, command)
        assert f"{tmp_path} is not a workspace" in result.stderr
        assert "rlhf init" in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_directory_below_a_workspace_is_in_it(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_world / "notes").mkdir()
    monkeypatch.chdir(small_world / "notes")
    assert f'"workspace": "{small_world}"' in rlhf("status", "--json").stdout


def test_an_unknown_key(rlhf_apart: Apart, small_world: Path) -> None:
    before = (small_world / "params.yaml").read_bytes()
    done = rlhf_apart("run", "-C", small_world, "-S", "align.dpo.bta=0.2")
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr == "error: unknown key `align.dpo.bta`; did you mean `align.dpo.beta`?\n"
    assert (small_world / "params.yaml").read_bytes() == before


def test_a_params_file_that_is_wrong_already(rlhf: Callable[..., Result], small_world: Path) -> None:
    params = small_world / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "sed: 0"))
    result = rlhf("run", "-C", small_world)
    assert result.exit_code == 10
    assert "missing key `seed`" in result.stderr
    assert "unknown key `sed`; did you mean `seed`?" in result.stderr


def test_two_runs_at_once(rlhf_apart: Apart, small_world: Path) -> None:
    before = (small_world / "params.yaml").read_bytes()
    with hold(small_world / ".rlhf" / "run.lock", "the workspace"):
        done = rlhf_apart("run", "-C", small_world, "-S", "seed=1")
    assert done.returncode == 13
    assert f"process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr
    assert (small_world / "params.yaml").read_bytes() == before


def test_a_prefect_server_that_does_not_answer(rlhf_apart: Apart, small_world: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    done = rlhf_apart("run", "-C", small_world, PREFECT_API_URL=url)
    assert done.returncode == 14
    assert f"PREFECT_API_URL names {url}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_world / ".rlhf" / "services.json").exists()


def test_an_mlflow_server_that_does_not_answer(rlhf: Callable[..., Result], small_world: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_API_URL", "")
        environment.setenv("MLFLOW_TRACKING_URI", url)
        result = rlhf("doctor", "-C", small_world, "--json")
    assert result.exit_code == 10
    assert url in result.stdout


def test_a_port_in_use_by_option(rlhf: Callable[..., Result], small_world: Path, taken_port: int) -> None:
    result = rlhf("up", "-C", small_world, "--prefect-port", taken_port)
    assert result.exit_code == 14
    assert f"Port {taken_port} for prefect is in use by" in result.stderr
    assert f"(process {os.getpid()})" in result.stderr
    assert "RLHF_PREFECT_PORT" in result.stderr


def test_a_port_in_use_by_environment(rlhf_apart: Apart, small_world: Path, taken_port: int) -> None:
    done = rlhf_apart("run", "-C", small_world, RLHF_PREFECT_PORT=str(taken_port))
    assert done.returncode == 14
    assert f"Port {taken_port} for prefect is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["http", "0", "70000", "-1", "4200 "])
def test_a_port_that_is_none(rlhf: Callable[..., Result], small_world: Path, text: str) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RLHF_MLFLOW_PORT", text)
        environment.setenv("RLHF_PREFECT_PORT", text)
        result = rlhf("up", "-C", small_world)
    assert result.exit_code == 14
    assert f"RLHF_PREFECT_PORT is {text!r}" in result.stderr


def test_nothing_to_promote(rlhf: Callable[..., Result], small_world: Path) -> None:
    result = rlhf("promote", "-C", small_world)
    assert result.exit_code == 11
    assert "reports/gate/decision.json" in result.stderr
    assert "rlhf run" in result.stderr


def test_promote_says_what_the_gate_refused(rlhf: Callable[..., Result], small_world: Path) -> None:
    decision = small_world / "reports" / "gate" / "decision.json"
    decision.parent.mkdir(parents=True)
    decision.write_text('{"decision": "REJECT", "sentence": "Neither wins.", "winner": null, "candidates": {}}')
    result = rlhf("promote", "-C", small_world)
    assert result.exit_code == 12
    assert "Neither wins." in result.stderr


def test_no_champion_yet(rlhf: Callable[..., Result], small_world: Path) -> None:
    for command in ("lineage", "chat"):
        result = rlhf(command, "-C", small_world)
        assert result.exit_code == 11
        assert "no champion yet" in result.stderr


def test_an_address_is_shown_without_its_password(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:sesame@127.0.0.1:{free_port()}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:sesame@localhost.invalid")
    (small_world / ".dvc/config").write_text("['remote \"far\"']\n    url = https://me:sesame@far.invalid/x\n")
    seen = rlhf("doctor", "-C", small_world)
    ended = rlhf("run", "-C", small_world)
    assert (seen.exit_code, ended.exit_code) == (10, 14)
    assert "me:***@127.0.0.1" in ended.stderr
    assert "http://me:***@localhost.invalid: it does not answer" in seen.stdout
    assert "http://me:***@127.0.0.1" in seen.stdout
    assert "config holds a password, and git keeps that file" in seen.stdout
    assert "sesame" not in seen.output + ended.output
