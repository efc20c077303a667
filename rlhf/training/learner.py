"""How an optimizer step is taken, in the precision and by the processes that the machine has."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, InitProcessGroupKwargs
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.models.machine import autocasts
from rlhf.training import sharding
from rlhf.training.meter import Meter
from rlhf.training.optimizer import learning_rate, skip_if
from rlhf.training.step import Step

PATIENCE = timedelta(hours=2)  # of processes with each other: one may write a large checkpoint, or long answers


class Learner:
    """Takes steps: forward and backward of each micro-batch, clipping, AdamW. It waits for nothing that it measures."""

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.AdamW,
        accelerator: Accelerator,
        config: OptimizerConfig,
        total_steps: int,
    ) -> None:
        """total_steps: the length of the learning-rate schedule."""
        self._objective, self._optimizer, self._accelerator = objective, optimizer, accelerator
        self._prepared = objective if sharding.is_wanted() else accelerator.prepare_model(objective)
        self._config, self._total_steps = config, total_steps
        self.meter = Meter(accelerator)

    def learn(self, number: int, step: Step) -> None:
        """Take step `number`; if its loss or gradient is not finite, nothing changes but the meter."""
        rate = learning_rate(number, self._total_steps, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        totals = self._accumulate(step)
        norm = sharding.whole(nn.utils.clip_grad_norm_(self._objective.parameters(), self._config.max_grad_norm))
        broken = self.meter.add(number, totals, norm, step.count, step.metrics | {"learning_rate": rate})
        skip_if(broken, self._optimizer)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, step: Step) -> dict[str, tuple[Any, Any]]:
        """Add up the gradients of this process's micro-batches; return sum and count of each metric."""
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        totals: dict[str, tuple[Any, Any]] = {}
        rounds = math.ceil(len(step.micro_batches) / processes)
        for turn in range(rounds):
            index = turn * processes + rank
            counts = index < len(step.micro_batches)  # every process joins every round; a spare one adds nothing
            last = turn + 1 == rounds  # when processes add up their gradients, of all rounds at once
            with nullcontext() if last else self._accelerator.no_sync(self._prepared):
                with self._accelerator.autocast():
                    total, metrics = self._prepared(step.micro_batches[index if counts else 0])
                # data parallelism takes the mean over processes
                self._accelerator.backward(total * (processes / step.count if counts else 0.0))
            for name, pair in {**metrics, "loss": (total.detach(), 0)}.items():
                sums = totals.get(name, (0.0, 0.0))
                totals[name] = sums[0] + counts * pair[0], sums[1] + counts * pair[1]
        return totals


def make_accelerator() -> Accelerator:
    """Where a stage trains, as precisely as rlhf/models/machine.py says. Raises ConfigError if it cannot.

    Where weights are sharded, autocast keeps no copy of them: it would be of all layers, in every process.
    """
    cast = AutocastKwargs(cache_enabled=not sharding.is_wanted())
    group = InitProcessGroupKwargs(timeout=PATIENCE)
    try:
        return Accelerator(mixed_precision="bf16" if autocasts() else "no", kwargs_handlers=[cast, group])
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
