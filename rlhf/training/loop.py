"""The loop: take a step, record it, write a checkpoint, go back when it must."""

import math
from contextlib import nullcontext
from itertools import islice
from typing import Protocol

import torch
from torch import nn

from rlhf.config.training import LoopConfig
from rlhf.failpoints import reach
from rlhf.models.recomputation import recompute_layers
from rlhf.training import sharding
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.learner import Learner, in_precision_of, make_accelerator
from rlhf.training.optimizer import make_optimizer
from rlhf.training.postponed import postponed
from rlhf.training.setbacks import Setbacks
from rlhf.training.step import Step, Steps


class Recorder(Protocol):
    """Where a stage tells how it goes; rlhf.pipeline.stage.Stage is one."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """The metrics of a step."""

    def progress(self, done: int, total: int, label: str = "") -> None:
        """How many steps are done, of how many."""


def train(
    objective: nn.Module,
    steps: Steps,
    *,
    total_steps: int,
    config: LoopConfig,
    checkpoints: Checkpoints,
    recorder: Recorder,
) -> list[dict[str, float]]:
    """Train the parameters of `objective` that require a gradient; return the curves, one dict a step.

    objective(micro_batch) returns (sum, metrics). steps(n) yields the steps from number n on, up to `total_steps`, the
    length of the learning-rate schedule. Training ends before that where batches that diverge take it back too often.

    Raises SetBack when a loss or gradient is not finite, or a batch diverged: call it again, with everything made anew,
    and it goes on from the last checkpoint; UserError when steps were not finite too often. SIGTERM and Ctrl-C wait for
    the next step from which training can go on, and for a checkpoint after it, unless there are several processes.
    """
    if config.gradient_checkpointing:
        recompute_layers(objective)
    accelerator = make_accelerator()
    objective.to(accelerator.device)  # where the optimizer's moments are restored to
    if config.checkpoint_every <= total_steps:
        checkpoints.require_room(objective)
    if sharding.is_wanted():
        sharding.shard(objective)
    optimizer = make_optimizer(objective, config.optimizer)
    done, history = checkpoints.restore(objective, optimizer)
    learner = Learner(objective, optimizer, accelerator, config.optimizer, total_steps)
    patience, writes = read_every(accelerator.device), accelerator.is_main_process
    setbacks = Setbacks(checkpoints, config.max_setbacks)
    unread: dict[int, Step] = {}

    def note(number: int, values: dict[str, float]) -> None:
        history.append({"step": number, **values})
        recorder.log(number, values)

    def read() -> None:
        for number, values in learner.meter.read():
            if not math.isfinite(values["loss"] + values["grad_norm"]):
                setbacks.not_finite(number, unread[number])
            note(number, values)
        unread.clear()

    made = in_precision_of(accelerator, sharding.while_whole(objective, steps(done)))
    saved = done
    with postponed() if accelerator.num_processes == 1 else nullcontext(()) as came:
        for number, step in enumerate(islice(made, setbacks.end(total_steps) - done), start=done):
            if step.diverged:
                read()
                setbacks.diverged(number, step, history)
            if setbacks.leaves_out(step.first(number)):
                read()
                note(number, finite(step.metrics) | {"skipped": 1.0})
            else:
                unread[number] = step
                learner.learn(number, step)
            reach("stepped")

            recorder.progress(number + 1, total_steps)
            keep = step.ends_batch(number) and (bool(came) or number + 1 - saved >= config.checkpoint_every)
            if keep or learner.meter.unread == patience:
                read()
            if keep:
                checkpoints.save(number + 1, objective, optimizer, history, writes=writes)
                saved = number + 1
            if keep and came:
                break
        read()
    sharding.make_whole(objective)
    return history


def finite(values: dict[str, float]) -> dict[str, float]:
    """Those of the values that are numbers."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def read_every(device: torch.device) -> int:
    """Steps between two reads of what was measured: a read costs a CPU nothing, and a GPU the kernels it had queued."""
    return 1 if device.type == "cpu" else 10
