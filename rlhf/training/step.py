"""What one optimizer step learns from.

Objectives return sums; a step divides once by the count of the whole of it, so that micro-batches, accumulation and the
number of processes cannot change a run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step learns from."""

    micro_batches: Sequence[Any]  # each is handed to the objective
    count: float  # tokens or prompts of the whole step: the one divisor
    metrics: dict[str, float] = field(default_factory=dict)  # recorded beside the objective's
    of_batch: int = 1  # steps that learn from the same batch; training goes on from the first of them
    diverged: bool = False  # how its batch was sampled says that the one learned from before it must not stand

    def first(self, number: int) -> int:
        """The first step that learns from the same batch as this one, which is step `number`."""
        return number - number % self.of_batch

    def ends_batch(self, number: int) -> bool:
        """Whether what comes after this step, `number`, depends on nothing but the weights and the step number."""
        return (number + 1) % self.of_batch == 0


Steps = Callable[[int], Iterator[Step]]  # from a number on
