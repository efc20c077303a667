"""The order of rows: each once a pass, and those that belong together in one micro-batch."""

import numpy as np

from rlhf.batching.order import micro_batches, rows_of_step


def test_rows_of_each_pass_are_a_permutation() -> None:
    stream = np.concatenate([rows_of_step(step, 10, 3, seed=7) for step in range(10)])
    passes = stream.reshape(3, 10)
    assert (np.sort(passes, axis=1) == np.arange(10)).all()
    assert not np.array_equal(passes[0], passes[1])


def test_groups_of_rows_stay_together_whatever_their_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, size=24)
    rows = rows_of_step(1, 24, 12, seed=7, together=4)
    cut = micro_batches(rows, lengths, 8, together=4)
    assert sorted(np.concatenate(cut)) == sorted(rows)
    for group in np.concatenate(cut).reshape(-1, 4):
        assert group.tolist() == list(range(group[0], group[0] + 4))
