"""Which rows make up an optimizer step.

It is a pure function of seed and step, so that a resumed run needs no saved position.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]  # of rows


def steps_in(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of `epochs` passes over `rows`."""
    return max(1, round(rows * epochs / batch_size))


def rows_of_step(step: int, rows: int, batch_size: int, seed: int, *, together: int = 1) -> Indices:
    """Rows (batch_size,) of optimizer step `step` (0-based): the next indices of an endless row of permutations.

    Groups of `together` rows, of which there is a whole number, are permuted as groups.
    """
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // rows, (last - 1) // rows + 1)
    groups = np.concatenate([np.random.default_rng((seed, epoch)).permutation(rows // together) for epoch in epochs])
    stream = (groups[:, None] * together + np.arange(together)).ravel()
    return stream[first - epochs[0] * rows : last - epochs[0] * rows]


def micro_batches(indices: Indices, lengths: NDArray[np.int64], size: int, *, together: int = 1) -> list[Indices]:
    """Cut a step's rows (B,) into micro-batches of at most `size` rows of like length, so that little is padding.

    lengths: (N,) tokens of all rows. Groups of `together` rows stay side by side, but where a micro-batch ends.
    """
    longest = lengths.reshape(-1, together).max(axis=1).repeat(together)
    by_length = indices[np.argsort(longest[indices], kind="stable")]
    return [by_length[i : i + size] for i in range(0, len(by_length), size)]
