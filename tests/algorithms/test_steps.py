"""Every optimizer step of every algorithm as the last of its process: the next one ends with the same bits."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from rlhf.config.training import LoopConfig
from rlhf.errors import SetBack
from rlhf.failpoints import FAILPOINT
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from rlhf.training.step import Step, Steps
from tests.algorithms.test_invariants import ALGORITHMS, ONLINE, make, online_source
from tests.algorithms.tiny import Silent, loop

STEPPED = "stepped"
BROKEN = " broken"  # after the name of an algorithm: one of its batches is not finite, however often it is tried
DIVERGING = " diverging"  # after the name of an algorithm: what it learns takes it past `max_kl`, every time
ALIKE = {"reinforce-sequence", "grpo-token", "grpo-constant"}  # others keep the same state
RUNS = [*(name for name in ALGORITHMS if name not in ALIKE), f"sft{BROKEN}", f"grpo{BROKEN}", f"grpo{DIVERGING}"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A process that is forked has no other, and sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_after_any_step_ends_bit_identical(
    name: str, sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no more steps again than lie between two checkpoints."""
    whole, hits = tmp_path / "whole", tmp_path / "hits"
    monkeypatch.setenv(FAILPOINT, str(hits))
    weights, curves = finish(name, sft, whole)
    steps = [number for number, place in enumerate(hits.read_text().splitlines(), 1) if place == STEPPED]
    assert len(steps) >= len(curves) > 1
    for number in steps:
        killed, hits = tmp_path / f"killed-{number}", tmp_path / f"hits-{number}"
        monkeypatch.setenv(FAILPOINT, f"{hits}:{number}:kill")
        assert in_fork(partial(finish, name, sft, killed)) == -signal.SIGKILL
        monkeypatch.setenv(FAILPOINT, str(hits))
        found = finish(name, sft, killed)
        again = hits.read_text().splitlines().count(STEPPED) - len(steps)
        assert 1 <= again <= interval(name, sft), (number, again)
        assert all(torch.equal(value, found[0][key]) for key, value in weights.items()), number
        assert found[1] == curves, number


def finish(name: str, sft: Path, work: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights and curves of a training that begins again after a setback, as a stage does."""
    while True:
        changes = {"max_kl": 1e-9} if name.endswith(DIVERGING) else {}
        objective, steps, total, config = make(name.split()[0], sft, shape(name), **changes)
        if name.endswith(BROKEN):
            steps = partial(with_nan, steps)
        kept = Checkpoints(work)
        try:
            curves = train(objective, steps, total_steps=total, config=config, checkpoints=kept, recorder=Silent())
        except SetBack:
            continue
        return objective.state_dict(), curves


def with_nan(steps: Steps, start: int) -> Iterator[Step]:
    """The steps, the third of which divides its loss by NaN."""
    for number, step in enumerate(steps(start), start):
        yield replace(step, count=math.nan) if number == 2 else step


def shape(name: str) -> LoopConfig:
    """A few steps; two an iteration, where there are iterations."""
    return loop(batch_size=8 if name in ("dpo", "dpo-lora", "ipo", "gr_dpo", "reward", "gdpo_belief") else 16)


def interval(name: str, sft: Path) -> int:
    """The most steps between two checkpoints: those that were asked for, or those of a whole iteration."""
    name = name.split()[0]
    if name not in ONLINE:
        return shape(name).checkpoint_every
    _, source, config = online_source(name, sft, shape(name))
    return max(config.checkpoint_every, source.steps_an_iteration)


def in_fork(work: Callable[[], object]) -> int:
    """Do it in a process of its own; return its exit code, or less its signal."""
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        work()
    finally:
        os._exit(1)
