"""Properties of packing and of batch order, over batches that nobody thought of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.batching.layout import SCORES, rounded
from rlhf.batching.order import micro_batches, rows_of_step
from rlhf.batching.ragged import Ragged

TOKENS = st.lists(st.integers(1, 9), min_size=1, max_size=70)
GROUPS = st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=4)


@given(GROUPS)
def test_a_packed_batch_holds_every_token_where_its_sequence_reads_it(groups: list[tuple[list[int], list[list[int]]]]):
    turns = [Turn(np.array(prompt), np.array(answer), (0, 0)) for prompt, answers in groups for answer in answers]
    batch = pad(turns)
    layout = batch.layout
    for row, turn in enumerate(turns):
        tokens = [*turn.prompt, *turn.response]
        assert batch.ids[row][batch.attention[row]].tolist() == tokens
        assert layout.ids[layout.places[row, : len(tokens)]].tolist() == tokens
        assert layout.positions[layout.places[row, : len(tokens)]].tolist() == list(range(len(tokens)))
        assert batch.ids[row][batch.mask[row]].tolist() == list(turn.response)
    distinct = sum(len(turn.response) for turn in turns)
    prompts = [tuple(turn.prompt) for turn in turns]
    distinct += sum(len(prompt) for place, prompt in enumerate(prompts) if place == 0 or prompts[place - 1] != prompt)
    assert len(layout.ids) == rounded(distinct), "a prompt that neighbours share stands once"
    stands = torch.unique(layout.places[batch.attention])
    assert stands.tolist() == list(range(distinct)), "nothing stands in the row that no sequence reads"
    rows = [row for block in layout.blocks for row in block]
    assert len(rows) == len(turns)
    assert all(block.numel() * block.shape[1] <= SCORES or len(block) == 1 for block in layout.blocks)
    lengths = sorted((len(turn.prompt) + len(turn.response) for turn in turns), reverse=True)
    assert {tuple(layout.ids[row[:length]].tolist()) for row, length in zip(rows, lengths, strict=True)} == {
        (*turn.prompt, *turn.response) for turn in turns
    }
    assert torch.cat(rows)[layout.homes[:distinct]].tolist() == list(range(distinct)), "each comes back to its place"


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=8), st.data())
def test_ragged_rows_come_back_as_they_went_in(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(rows)
    assert [row.tolist() for row in ragged] == rows
    assert [row.tolist() for row in Ragged.named(ragged.arrays("x"), "x")] == rows
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    assert [row.tolist() for row in ragged.where(chosen)] == [
        r for r, wanted in zip(rows, chosen, strict=True) if wanted
    ]


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 3), st.integers(0, 5))
def test_an_epoch_holds_every_row_once_whatever_the_batch(groups: int, size: int, together: int, seed: int) -> None:
    rows = groups * together
    steps = [rows_of_step(step, rows, size, seed, together=together) for step in range(-(-2 * rows // size))]
    stream = np.concatenate(steps)
    for epoch in range(2):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert all(len(step) == size for step in steps)
    assert np.array_equal(stream[:rows].reshape(groups, together) % together, np.tile(np.arange(together), (groups, 1)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 9))
def test_micro_batches_are_the_rows_of_the_step_in_order_of_length(lengths: list[int], size: int) -> None:
    chosen = np.arange(0, len(lengths), 2)
    cut = micro_batches(chosen, np.array(lengths), size)
    flat = np.concatenate(cut)
    assert sorted(flat) == chosen.tolist()
    assert [len(part) for part in cut[:-1]] == [size] * (len(cut) - 1)
    assert np.array(lengths)[flat].tolist() == sorted(np.array(lengths)[chosen])


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000, 2049, 100_000])
def test_a_rounded_length_is_little_longer(length: int) -> None:
    assert length <= rounded(length) <= max(length + 63, length * 17 / 16)
