"""Steps over rows that lie there before training begins: demonstrations, rankings, thumbs."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from rlhf.batching.order import Indices, micro_batches, rows_of_step, steps_in
from rlhf.config.training import LoopConfig
from rlhf.training.step import Step, Steps


def passes(
    lengths: NDArray[np.int64],
    config: LoopConfig,
    make: Callable[[Indices, list[Indices]], Step],
    *,
    epochs: float,
    seed: int,
) -> tuple[Steps, int]:
    """The steps of `epochs` passes over rows, from a given number on, and how many they are.

    lengths: (N,) tokens of each row. make: a step of its rows, and of these in micro-batches.
    """
    total = steps_in(len(lengths), config.batch_size, epochs)

    def steps(start: int) -> Iterator[Step]:
        for number in range(start, total):
            rows = rows_of_step(number, len(lengths), config.batch_size, seed)
            yield make(rows, micro_batches(rows, lengths, config.micro_batch_size))

    return steps, total
