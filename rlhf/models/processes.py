"""Work that nothing is learned from, shared out among the processes of `accelerate launch`: to sample, and to score.

Every process must ask, in the same order: one that fails leaves the others waiting until the launcher ends them. Before
accelerate has brought the processes together each does the whole, as do stages that never ask it to.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from torch import distributed

T = TypeVar("T")
R = TypeVar("R")


def launched() -> int:
    """Processes that a launcher started, whether or not they have been brought together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the first of them, which does what must be done once."""
    return os.environ.get("RANK", "0") == "0"


def how_many() -> int:
    """Processes that share the work."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shared_out(work: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    """[work(piece) for piece in pieces], in every process; of n processes each does every n-th piece, from its rank on.

    What `work` gives is pickled: tensors have to be on the CPU.
    """
    processes = how_many()
    if processes == 1:
        return [work(piece) for piece in pieces]
    own = [work(piece) for piece in pieces[distributed.get_rank() :: processes]]
    everyone: list[list[R]] = [[]] * processes
    distributed.all_gather_object(everyone, own)
    return [everyone[number % processes][number // processes] for number in range(len(pieces))]


def true_everywhere(here: bool) -> bool:
    """Whether it is so in every process."""
    return all(cast(list[bool], shared_out(lambda _: here, range(how_many()))))
