"""A stage's work directory when DVC has the stage's outputs: what lasts stays, and nothing elsewhere is touched."""

import json
from pathlib import Path

import pytest

from rlhf.pipeline.graph import StageSpec
from rlhf.pipeline.stage.work import LASTING, clear_checkpoints

SPEC = StageSpec("sft", "python -m tasks.sft", outs=("models/sft",))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    workspace = tmp_path / "workspace"
    (workspace / "models/sft").mkdir(parents=True)
    return workspace


def work_of(workspace: Path, key: str) -> Path:
    """The directory of a key that the receipt names, with a checkpoint and what lasts."""
    (workspace / "models/sft/receipt.json").write_text(json.dumps({"stage": "sft", "key": key}))
    work = workspace / ".work" / key
    (workspace / ".work").mkdir()
    (work / "step-00000001").mkdir(parents=True)
    for name in LASTING:
        (work / name).touch()
    return work


def test_checkpoints_go_and_the_rest_lasts(workspace: Path) -> None:
    work = work_of(workspace, "0f" * 32)
    clear_checkpoints(workspace, SPEC)
    assert {path.name for path in work.iterdir()} == LASTING


@pytest.mark.parametrize("key", ["../../elsewhere", "..", "", "."])
def test_a_receipt_that_names_a_path_clears_nothing(workspace: Path, key: str) -> None:
    """It may have come from a remote."""
    work = work_of(workspace, key)
    clear_checkpoints(workspace, SPEC)
    assert (work / "step-00000001").is_dir()
