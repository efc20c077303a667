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
