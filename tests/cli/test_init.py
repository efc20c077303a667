"""`rlhf init` makes workspaces that can be read as they are."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf.cli.init import PACKAGE, examples
from rlhf.config import load_config
from rlhf.pipeline.graph import load_graph

ROOT = Path(__file__).parents[2]


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
    assert (directory / ".git").is_dir()
    assert (directory / ".dvc").is_dir()


def test_the_default_is_the_root(small_world: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        assert (small_world / name).read_text() == (ROOT / name).read_text()


def test_a_source_that_is_missing_is_named_and_nothing_is_made(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    result = rlhf("init", tmp_path / "new", "--example", "oasst", "--data", tmp_path / "nowhere")
    assert result.exit_code == 11
    assert f"{tmp_path / 'nowhere'}/oasst" in result.stderr
    assert "--data" in result.stderr
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


def test_a_file_in_the_place_of_the_directory_is_named(rlhf: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "new").write_text("mine")
    result = rlhf("init", tmp_path / "new")
    assert result.exit_code == 10
    assert f"{tmp_path / 'new'} is a file" in result.stderr
