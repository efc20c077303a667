"""A user's mistake gets one message on standard error and a typed exit code; nothing of the workspace is lost."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf.cli.init import COLLECT
from rlhf.locks import hold
from rlhf.pipeline.fingerprint import packages
from rlhf.pipeline.readable import FILES
from tests import decisions
from tests.conftest import free_port

Apart = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def sourced(small_world: Path) -> Path:
    """A workspace that reads `rows`, which is not there."""
    graph = small_world / "dvc.yaml"
    graph.write_text(graph.read_text().replace(COLLECT, f"{COLLECT}    deps: [rows]\n"))
    return small_world


def test_outside_a_workspace(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    for command in ("run", "status", "lineage", "promote", "up", "doctor", "chat"):
        result = rlhf(command, "-C", tmp_path)
        assert (result.exit_code, command) == (10, command)
        assert f"{tmp_path} is not a workspace" in result.stderr
        assert "rlhf init" in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_in_a_directory_that_was_removed(small_world: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && {sys.executable} -m rlhf status -C {shlex.quote(str(small_world))}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ | packages())
    assert (done.returncode, done.stderr) == (10, "error: this directory has been removed. Go to another one\n")


@pytest.mark.parametrize("name", ["a?b", "b\udcff"])
def test_a_directory_that_no_database_is_found_in(rlhf: Callable[..., Result], tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    assert rlhf("init", directory).exit_code == 10
    assert not directory.exists()
    directory.mkdir()
    for file in ("dvc.yaml", "params.yaml"):
        (directory / file).touch()
    result = rlhf("sync", "-C", directory)
    assert result.exit_code == 10
    assert "Rename the directory" in result.stderr
    assert len(list(directory.iterdir())) == 2


def test_a_directory_below_a_workspace_is_in_it(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_world / "notes").mkdir()
    monkeypatch.chdir(small_world / "notes")
    assert f'"workspace": "{small_world}"' in rlhf("status", "--json").stdout


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_a_workspace_that_lacks_a_file_is_named_and_not_passed_by(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inner = small_world / "inner"
    (inner / ".dvc").mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(small_world / file, inner)
    monkeypatch.chdir(inner)
    (inner / name).unlink()
    result = rlhf("status")
    assert (result.exit_code, f"{inner} lacks {name}." in result.stderr) == (10, True)


def put(path: Path, kind: str) -> None:
    """Put something else in the place of a file or a directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "nowhere": "/nowhere/at/all", "device": "/dev/zero"}[kind])


@pytest.mark.parametrize("kind", ["pipe", "directory", "loop"])
def test_what_is_no_file_is_named_before_it_is_read(rlhf: Callable[..., Result], small_world: Path, kind: str) -> None:
    for name in FILES:
        put(small_world / name, kind)
        result = rlhf("status", "-C", small_world)
        assert (result.exit_code, f"{small_world / name} is a " in result.stderr) == (10, True), name
        put(small_world / name, "directory")
        (small_world / name).rmdir()
        (small_world / name).touch()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: shutil.rmtree(path / ".git"), "is no git repository, and DVC needs one. Make it: git init '"),
        (lambda path: put(path / ".git", "directory"), "is no git repository, and DVC needs one"),
        (lambda path: shutil.rmtree(path / ".git") or (path / ".git").write_text("?"), ".git is a file that leads to"),
        (lambda path: (path / ".dvc/config").write_text("[core"), ".dvc/config, or config.local beside it: "),
        (lambda path: put(path / ".rlhf", "loop"), ".rlhf is a link that leads nowhere, where a directory belongs"),
        (lambda path: put(path / ".dvc", "pipe"), ".dvc is a pipe or a device, where a directory belongs"),
    ],
)
def test_state_that_is_odd_is_a_mistake_to_mend(
    rlhf: Callable[..., Result], small_world: Path, spoil: Callable[[Path], object], told: str
) -> None:
    spoil(small_world)
    result = rlhf("status", "-C", small_world)
    assert (result.exit_code, told in result.stderr) == (10, True), result.stderr


def test_a_path_that_no_system_call_takes(rlhf: Callable[..., Result], small_world: Path) -> None:
    put(lock := small_world / ".rlhf" / "services.lock", "loop")
    for arguments, told in (
        (["down", "-C", small_world], f"{lock}: too many levels of symbolic links. Put this right, or"),
        (["init", small_world / ("x" * 300)], "file name too long. Put this right, or"),
        (["init", small_world / "dvc.yaml" / "x"], "dvc.yaml/x: not a directory"),
    ):
        result = rlhf(*arguments)
        assert (result.exit_code, told in result.stderr) == (10, True), result.stderr


@pytest.mark.parametrize("kind", ["nowhere", "loop", "pipe", "device"])
def test_a_source_that_cannot_be_read(rlhf: Callable[..., Result], sourced: Path, kind: str) -> None:
    for path in (sourced / "rows", sourced / "rows" / "part.jsonl"):
        put(path, kind)
        what = "is a link that leads nowhere" if kind in ("nowhere", "loop") else "is a pipe or a device"
        told = f"{path} {what}; stage `collect` needs it. Check the path in params.yaml, or in dvc.yaml"
        result = rlhf("status", "-C", sourced)
        assert (result.exit_code, told in result.stderr) == (11, True)
        put(path, "directory")


def test_doctor_names_a_source_that_is_not_there(rlhf: Callable[..., Result], sourced: Path) -> None:
    assert f"{sourced / 'rows'} does not exist; stage `collect` needs it" in rlhf("doctor", "-C", sourced).stdout
    put(sourced / "rows", "nowhere")
    assert f"{sourced / 'rows'} is a link that leads nowhere; stage" in rlhf("doctor", "-C", sourced).stdout


def test_an_unknown_key(rlhf_apart: Apart, small_world: Path) -> None:
    before = (small_world / "params.yaml").read_bytes()
    done = rlhf_apart("run", "-C", small_world, "-S", "align.dpo.bta=0.2")
    assert (done.returncode, done.stdout) == (10, "")
    told = "params.yaml with `align.dpo.bta` as asked for: unknown key `align.dpo.bta`; did you mean `align.dpo.beta`?"
    assert done.stderr == f"error: {told}\n"
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
    assert not (small_world / ".rlhf" / "servers").exists()


@pytest.mark.parametrize(("name", "shown"), [("nonsense", "nonsense"), ("PPO", "PPO"), ("", "''")])
def test_compare_names_an_algorithm_that_there_is_not(
    rlhf: Callable[..., Result], small_world: Path, name: str, shown: str
) -> None:
    result = rlhf("compare", "-C", small_world, "-a", "dpo", "-a", name)
    assert result.exit_code == 10
    assert f"`--algorithm {shown}`: there is none. They are: reinforce, rloo, " in result.stderr
    assert not (small_world / ".rlhf" / "servers").exists()


def test_compare_says_first_how_often_it_looks_at_the_test_set(
    rlhf: Callable[..., Result], small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")  # where it ends
    for asked, looks in (((), 30), (("-a", "dpo", "-a", "dpo", "--seeds", "2"), 2)):
        result = rlhf("compare", "-C", small_world, *asked)
        told = f"This looks up to {looks} times at the gate's test set; `gate.small.max_uses` allows 40\n"
        assert (result.exit_code, told in result.stdout) == (14, True), result.output


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
    decisions.write(small_world, decisions.made_of("REJECT", "Neither wins.", {}))
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
