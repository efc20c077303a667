"""`rlhf init` makes workspaces that can be read as they are."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf.cli.init import PACKAGE, examples
from rlhf.config import load_config
from rlhf.failpoints import FAILPOINT
from rlhf.pipeline.fingerprint import fingerprints, stored
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.workspace import hold_workspace

ROOT = Path(__file__).parents[2]
Apart = Callable[..., subprocess.CompletedProcess[str]]


def made_data(directory: Path, example: str) -> Path:
    """Empty files where the example reads some."""
    file = PACKAGE / "examples" / f"{example}.yaml"
    for path in re.findall(r"\{data\}/([\w./-]+)", file.read_text()) if file.exists() else ():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).touch()
    return directory


@pytest.mark.parametrize("example", examples())
def test_every_example_is_a_workspace(rlhf: Callable[..., Result], tmp_path: Path, example: str) -> None:
    data, directory = made_data(tmp_path / "rows", example), tmp_path / "new"
    result = rlhf("init", directory, "--example", example, "--data", data)
    assert (result.exit_code, result.stderr) == (0, "")
    load_config(directory / "params.yaml")
    graph = load_graph(directory)
    assert [dep for dep in graph.stages["collect"].deps if not (directory / dep).is_file()] == []
    assert list(graph.stages) == list(load_graph(ROOT).stages)
    assert stored(directory) == fingerprints(directory)
    assert (directory / ".git").is_dir()
    assert (directory / ".dvc").is_dir()


def test_the_default_is_the_root(small_world: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        assert (small_world / name).read_text() == (ROOT / name).read_text()


def test_what_lies_there_already_is_named(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/.gitignore").write_bytes(b"# B\xfccher\n")
    (tmp_path / "two/data").touch()
    for name, told in (("one", ".gitignore is not UTF-8"), ("two", "data: file exists")):
        result = rlhf("init", tmp_path / name, "--example", "files")
        assert (result.exit_code, told in " ".join(result.stderr.split())) == (10, True), result.stderr


def test_a_source_that_is_missing_is_named_and_nothing_is_made(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    result = rlhf("init", tmp_path / "new", "--example", "oasst", "--data", tmp_path / "nowhere")
    assert result.exit_code == 11
    assert f"{tmp_path / 'nowhere'}/oasst" in result.stderr
    assert "--data" in result.stderr
    assert not (tmp_path / "new").exists()


def test_an_example_that_reads_files_asks_for_their_directory(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    result = rlhf("init", tmp_path / "new", "--example", "hh-harmless")
    assert (result.exit_code, "name their directory with --data PATH. " in result.stderr) == (10, True)
    assert not (tmp_path / "new").exists()


def test_an_unknown_example_gets_the_nearest_name(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    result = rlhf("init", tmp_path / "new", "--example", "hh-harmles")
    assert result.exit_code == 10
    assert "did you mean `hh-harmless`?" in result.stderr


def test_a_workspace_is_not_overwritten(rlhf: Callable[..., Result], small_world: Path) -> None:
    (small_world / "params.yaml").write_text("mine")
    result = rlhf("init", small_world)
    assert result.exit_code == 10
    assert str(small_world) in result.stderr
    assert (small_world / "params.yaml").read_text() == "mine"


def test_an_init_that_was_killed_is_finished_by_the_next(
    rlhf: Callable[..., Result], rlhf_apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with monkeypatch.context() as environment:
        environment.setenv(FAILPOINT, str(tmp_path / "hits"))
        assert rlhf("init", whole, "--example", "files").exit_code == 0
    places = (tmp_path / "hits").read_text().splitlines()
    assert places[-1] == "renamed dvc.yaml"  # nothing that makes a workspace comes later
    last = len(places) - 1  # dvc.yaml is written, and has not got its name
    killed = rlhf_apart("init", torn, "--example", "files", **{FAILPOINT: f"{tmp_path / 'again'}:{last}:kill"})
    assert killed.returncode == -signal.SIGKILL
    told = rlhf("status", "-C", torn)
    assert (told.exit_code, f"{torn} lacks dvc.yaml." in told.stderr) == (10, True)
    assert f"rlhf init {torn}" in told.stderr
    other = rlhf("init", torn)
    assert (other.exit_code, "a params.yaml of its own" in other.stderr) == (10, True)
    assert rlhf("init", torn, "--example", "files").exit_code == 0
    names = [str(path.relative_to(whole)) for path in whole.rglob("*") if ".git" not in path.parts]
    files = [name for name in names if (whole / name).is_file() and ".dvc/tmp" not in name and ".rlhf" not in name]
    assert {"params.yaml", "dvc.yaml", "code.json", "champion.json", ".dvc/config"} < set(files)
    assert [name for name in files if (torn / name).read_bytes() != (whole / name).read_bytes()] == []
    assert list(torn.rglob(".partial-*")) == []
    assert stored(torn) == fingerprints(torn)


def test_rows_that_are_there_stay(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    mine = tmp_path / "new" / "data" / "sources" / "demonstrations.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert rlhf("init", tmp_path / "new", "--example", "files").exit_code == 0
    assert mine.read_text() == "mine"


def test_two_at_once(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with hold_workspace(tmp_path / "new"):
        second = rlhf("init", tmp_path / "new")
    assert (second.exit_code, f"in use by process {os.getpid()}" in second.stderr) == (13, True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".rlhf"]


def test_what_to_do_next_can_be_pasted(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    directory = tmp_path / "a b'c" / "ü"
    said = rlhf("init", directory).stdout
    (step,) = re.findall("Next: cd (.*) && rlhf run", said)
    assert shlex.split(step) == [str(directory)]


def test_a_file_in_the_place_of_the_directory_is_named(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "new").write_text("mine")
    result = rlhf("init", tmp_path / "new")
    assert result.exit_code == 10
    assert f"{tmp_path / 'new'} is a file" in result.stderr
