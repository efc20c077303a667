"""The flow `compare`: what it trains one after the other stays its own until it has been read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.reading import look_up, read_yaml
from rlhf.errors import Busy, Exit
from rlhf.pipeline.workspace import hold_workspace
from tests.conftest import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


def test_no_run_takes_the_workspace_between_two_trainings(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its policies would be read as those of a training."""
    from flows import compare
    from flows.results import RunResult, Silent

    shutil.copy(ROOT / "params.yaml", workspace)
    before, looks = (workspace / "params.yaml").read_bytes(), list[tuple[str, Any]]()

    def look(what: str) -> None:
        with pytest.raises(Busy, match="is in use by process"), hold_workspace(workspace):
            pass
        looks.append((what, look_up(read_yaml(workspace / "params.yaml"), "align.seed")))

    def train(*_: Any, **__: Any) -> RunResult:
        look("train")
        return RunResult("run", {}, Exit.DONE, None, None, True)

    monkeypatch.setattr(compare.align, "run", train)
    monkeypatch.setattr(compare.comparison, "read_trials", lambda *_: look("read") or [])
    monkeypatch.setattr(compare.comparison, "write", lambda *_: look("write"))
    compare.run(workspace, ["kto"], [3, 4], snapshots=2, noise_steps=2, reporter=Silent())
    assert looks == [("train", 3), ("read", 0), ("train", 4), ("read", 0), ("write", 0)]
    assert (workspace / "params.yaml").read_bytes() == before
    with hold_workspace(workspace):
        pass


@pytest.mark.parametrize("lacking", [["kto"], ["kto", "dpo"]])
def test_an_algorithm_without_its_data_is_left_out(
    lacking: list[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are trained with every seed; where none is left it is a failure."""
    from flows import compare
    from flows.results import RunResult, Silent, StageResult

    shutil.copy(ROOT / "params.yaml", workspace)
    trained, read, written = list[list[str]](), list[tuple[list[str], int]](), list[Any]()

    def train(*_: Any, **__: Any) -> RunResult:
        trained.append(look_up(read_yaml(workspace / "params.yaml"), "align.algorithms"))
        failed = StageResult("failed", Exit.DATA, "no thumbs")
        stages = {f"align@{name}": failed if name in lacking else StageResult("ran") for name in trained[-1]}
        worst = max(stage.exit for stage in stages.values())
        return RunResult("run", stages | {"gate": StageResult("skipped")}, worst, None, None, True)

    monkeypatch.setattr(compare.align, "run", train)
    monkeypatch.setattr(compare.comparison, "read_trials", lambda _, *asked: read.append(asked) or [])
    monkeypatch.setattr(compare.comparison, "write", lambda *given: written.append(given[2]) or "table")
    result, table = compare.run(workspace, ["kto", "dpo"], [0, 1], snapshots=2, noise_steps=2, reporter=Silent())
    if lacking == ["kto"]:
        assert trained == [["kto", "dpo"], ["dpo"], ["dpo"]]
        assert read == [(["dpo"], 0), (["dpo"], 1)]
        assert (result.exit, table, written) == (Exit.DONE, "table", [{"kto": "no thumbs"}])
    else:
        assert (trained, read, written) == ([["kto", "dpo"]], [], [])
        assert (result.exit, table) == (Exit.DATA, None)
