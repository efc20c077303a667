"""The loop: forward, backward, step, record, checkpoint.

Objectives return sums; the loop divides once by the count of the whole step, so that micro-batches, accumulation and
the number of processes cannot change a run.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from rlhf.config.training import LoopConfig
from rlhf.errors import ConfigError
from rlhf.failpoints import reach
from rlhf.models.machine import autocasts
from rlhf.models.recomputation import recompute_layers
from rlhf.training import sharding
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.meter import Meter
from rlhf.training.optimizer import learning_rate, make_optimizer, skip_if
from rlhf.training.postponed import postponed
from rlhf.training.setbacks import Setbacks


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step learns from."""

    micro_batches: Sequence[Any]  # each is handed to the objective
    count: float  # tokens or prompts of the whole step: the one divisor
    metrics: dict[str, float] = field(default_factory=dict)  # recorded beside the objective's
    resumable: bool = True  # whether the steps after this one depend on nothing but the weights and the step number


class Recorder(Protocol):
    """Where a stage tells how it goes; rlhf.pipeline.stage.Stage is one."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """The metrics of a step."""

    def progress(self, done: int, total: int, label: str = "") -> None:
        """How many steps are done, of how many."""


def train(
    objective: nn.Module,
    steps: Callable[[int], Iterator[Step]],
    *,
    total_steps: int,
    config: LoopConfig,
    checkpoints: Checkpoints,
    recorder: Recorder,
) -> list[dict[str, float]]:
    """Train the parameters of `objective` that require a gradient; return the curves, one dict a step.

    objective(micro_batch) returns (sum, metrics). steps(n) yields the steps from number n on, and may end before
    `total_steps`, the length of the learning-rate schedule.

    Raises SetBack when a loss or gradient is not finite: call it again, with everything made anew, and it goes on from
    the last checkpoint; UserError when that happened too often. SIGTERM and Ctrl-C wait for the next step from which
    training can go on, and for a checkpoint after it, unless there are several processes.
    """
    if config.gradient_checkpointing:
        recompute_layers(objective)
    accelerator = make_accelerator()
    checkpoints.require_room(objective)
    if sharding.is_wanted():
        sharding.shard(objective)
    optimizer = make_optimizer(objective, config.optimizer)
    done, history = checkpoints.restore(objective, optimizer)
    prepared = objective if sharding.is_wanted() else accelerator.prepare_model(objective)
    rank, processes = accelerator.process_index, accelerator.num_processes
    writes = accelerator.is_main_process
    meter, patience = Meter(accelerator), read_every(accelerator.device)
    setbacks = Setbacks(checkpoints.directory, config.max_setbacks)
    unread: dict[int, tuple[int, Step]] = {}  # by number; with the first step that learns from the same batch

    def note(number: int, values: dict[str, float]) -> None:
        history.append({"step": number, **values})
        recorder.log(number, values)

    def read() -> None:
        for number, values in meter.read():
            if not math.isfinite(values["loss"] + values["grad_norm"]):
                first, step = unread[number]
                setbacks.go_back(first, number, step.micro_batches, writes=writes)
            note(number, values)
        unread.clear()

    def learn(number: int, step: Step) -> None:
        rate = learning_rate(number, total_steps, config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, tuple[Any, Any]] = {}
        rounds = math.ceil(len(step.micro_batches) / processes)
        for index in range(rank, rounds * processes, processes):
            counts = index < len(step.micro_batches)  # every process joins every round; a spare one adds nothing
            with accelerator.autocast():
                total, metrics = prepared(step.micro_batches[index if counts else 0])
            # data parallelism takes the mean over processes
            accelerator.backward(total * (processes / step.count if counts else 0.0))
            for name, pair in {**metrics, "loss": (total.detach(), 0)}.items():
                sums = totals.get(name, (0.0, 0.0))
                totals[name] = sums[0] + counts * pair[0], sums[1] + counts * pair[1]
        norm = sharding.whole(nn.utils.clip_grad_norm_(objective.parameters(), config.optimizer.max_grad_norm))
        broken = meter.add(number, totals, norm, step.count, step.metrics | {"learning_rate": rate})
        skip_if(broken, optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    made = in_precision_of(accelerator, sharding.while_whole(objective, steps(done)))
    first = saved = done
    with postponed() if processes == 1 else nullcontext(()) as came:
        for number, step in enumerate(made, start=done):
            if setbacks.leaves_out(first):
                read()
                note(number, finite(step.metrics) | {"skipped": 1.0})
            else:
                unread[number] = first, step
                learn(number, step)
            reach("stepped")

            recorder.progress(number + 1, total_steps)
            keep = step.resumable and (bool(came) or number + 1 - saved >= config.checkpoint_every)
            if keep or meter.unread == patience:
                read()
            if keep:
                checkpoints.save(number + 1, objective, optimizer, history, writes=writes)
                saved = number + 1
            if keep and came:
                break
            first = number + 1 if step.resumable else first
        read()
    sharding.make_whole(objective)
    return history


def finite(values: dict[str, float]) -> dict[str, float]:
    """Those of the values that are numbers."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def read_every(device: torch.device) -> int:
    """Steps between two reads of what was measured: a read costs a CPU nothing, and a GPU the kernels it had queued."""
    return 1 if device.type == "cpu" else 10


def make_accelerator() -> Accelerator:
    """Where a stage trains, as precisely as rlhf/models/machine.py says. Raises ConfigError if it cannot."""
    try:
        return Accelerator(mixed_precision="bf16" if autocasts() else "no")
    except ValueError as error:
        raise ConfigError(f"RLHF_PRECISION is bf16, which this machine does not train in: {error}") from None


def in_precision_of(accelerator: Accelerator, steps: Iterator[Step]) -> Iterator[Step]:
    """Make each step in the precision of training: what is sampled and scored for it compares with what is learned."""
    while True:
        with accelerator.autocast():
            step = next(steps, None)
        if step is None:
            return
        yield step
