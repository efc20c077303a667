"""A sample of `make faults`: a stage that trains dies at places of every kind; and what the harness must not miss."""

import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.crash import LOST, Trials, Work
from rlhf import durable
from rlhf.errors import DiskFull
from rlhf.failpoints import reach
from rlhf.pipeline import fingerprint
from rlhf.training.checkpoint import Checkpoints
from tests.conftest import TOY

TRAINING = """
import json
import torch
from rlhf.failpoints import reach
from rlhf.pipeline.stage import run_stage
from rlhf.training.checkpoint import Checkpoints

def main(stage):
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, 0.5)
    torch.nn.init.zeros_(model.bias)
    optimizer, checkpoints = torch.optim.AdamW(model.parameters()), Checkpoints(stage.work)
    done, history = checkpoints.restore(model, optimizer)
    for step in range(done, 4):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1.0 / (step + 1))
        optimizer.step()
        reach("stepped")
        stage.log(step, {"loss": 1.0 / (step + 1)})
        history.append({"step": step})
        checkpoints.save(step + 1, model, optimizer, history)
    (stage.output("data/rows") / "weights.json").write_text(json.dumps(model.weight.tolist()))
    stage.metrics({"steps": len(history)})
    stage.summary("it is trained")

if __name__ == "__main__":
    run_stage(main)
"""
MADE = ("data/rows", "reports/rows.json")


def run() -> None:
    """`python rows.py`, in a fork of this process."""
    sys.argv = ["rows.py"]
    runpy.run_path("rows.py", run_name="__main__")


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Trials]:
    """The trials of a stage that trains, over outputs of another version of it; to be made when all is in place."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a process dies here, not the machine
    workspace = shutil.copytree(TOY, tmp_path / "workspace")
    (workspace / "rows.py").write_text(TRAINING)
    for name in MADE:
        (workspace / name).parent.mkdir(exist_ok=True)
    (workspace / MADE[0]).mkdir()
    (workspace / MADE[0] / "weights.json").write_text("old")
    (workspace / MADE[1]).write_text("old")
    fingerprint.refresh(workspace)
    return lambda: Trials(Work("rows", run, MADE), tmp_path)


def test_a_stage_that_dies_anywhere_ends_as_if_it_had_not(trials: Callable[[], Trials]) -> None:
    made = trials()
    kinds = {place.split()[0] for place in made.places}
    assert kinds == {"noted", "stepped", "saved", "written", "renamed", "made", "moved", "published", "removing"}
    found = made.survey(every=7, in_turn=True, deaths=1)
    assert found.wrong == {}
    assert found.trials > found.places / 7
    assert found.twice == 1


def file_by_file(temporary: Path, target: Path) -> None:
    """Publish so that a part can be there without the others."""
    durable.remove(target)
    if temporary.is_file():
        shutil.move(temporary, target)
    else:
        target.mkdir()
        for file in sorted(temporary.iterdir()):
            reach("moving", temporary)
            shutil.move(file, target)


BREAKS = {
    "outputs appear at once": (durable, "publish", file_by_file, "moving", "kill", "neither old nor new"),
    "training goes on": (Checkpoints, "restore", lambda *_: (0, []), "stepped", "kill", "steps were taken twice"),
    "what has its name is on disk": (durable, "sync_tree", lambda path: None, "published", LOST, "neither old nor new"),
    "a full disk is told": (
        DiskFull,
        "behind",
        lambda error, place: None,
        "written",
        "full",
        "it ended with 1, not 15",
    ),
}


@pytest.mark.parametrize("promise", BREAKS)
def test_a_promise_that_is_broken_is_seen(
    trials: Callable[[], Trials], monkeypatch: pytest.MonkeyPatch, promise: str
) -> None:
    owner, name, broken, place, fault, complaint = BREAKS[promise]
    monkeypatch.setattr(owner, name, broken)
    made = trials()
    number = max(number for number, found in enumerate(made.places, 1) if found.startswith(place))
    assert complaint in str(made.suffer(number, fault))
