"""Properties of packing and of batch order, over batches that nobody thought of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batching import layout as packing
from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.batching.layout import rounded
from rlhf.batching.order import micro_batches, rows_of_step
from rlhf.batching.ragged import Ragged

TOKENS = st.lists(st.integers(1, 9), min_size=1, max_size=70)
GROUPS = st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=4)


@given(GROUPS, st.sampled_from([64, 4096, 2**16]))
def test_a_packed_batch_holds_every_token_where_its_sequence_reads_it(
    groups: list[tuple[list[int], list[list[int]]]], scores: int
) -> None:
    turns = [Turn(np.array(prompt), np.array(answer), (0, 0)) for prompt, answers in groups for answer in answers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SCORES", scores)
        patch.setattr("rlhf.batching.layout.on_gpu", lambda: False)
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
    length = [len(turn.prompt) + len(turn.response) for turn in turns]
    shares = [
        place > 0 and prompts[place - 1] == prompt and (size**2 <= scores or 2 * len(prompt) >= size)
        for place, (prompt, size) in enumerate(zip(prompts, length, strict=True))
    ]
    saved = sum(share * len(turn.prompt) * size for share, turn, size in zip(shares, turns, length, strict=True))
    assert any(block.starts is not None for block in layout.blocks) == (saved >= scores)
    order = sorted(range(len(turns)), key=lambda row: (saved >= scores and shares[row], -length[row]))
    rows = [row for block in layout.blocks for row in block.keys]
    for row, turn in zip(rows, order, strict=True):
        assert layout.ids[row[: length[turn]]].tolist() == [*turns[turn].prompt, *turns[turn].response]
    sizes = [(block.queries.numel() * block.keys.shape[1], len(block.keys)) for block in layout.blocks]
    assert all(size <= scores or rows == 1 for size, rows in sizes)
    queries = torch.cat([block.queries.flatten() for block in layout.blocks])
    assert queries[layout.homes[:distinct]].tolist() == list(range(distinct)), "each comes back to its place"


def test_a_prompt_attends_in_the_first_of_its_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SCORES", 1000)
    monkeypatch.setattr("rlhf.batching.layout.on_gpu", lambda: False)
    prompt, answers = list(range(2, 52)), [[2] * 9, [3] * 4, [4] * 7]
    first, others = pad([Turn(prompt, answer) for answer in answers]).layout.blocks
    assert first.keys is first.queries
    assert first.keys.shape == (1, 59)
    assert others.keys.shape == (2, 57)
    assert others.queries[0].tolist() == [*range(63, 70)]
    assert others.queries[1, :4].tolist() == [*range(59, 63)]
    before = others.before()
    assert before is not None
    assert (before[:, 0] == 0).sum(dim=-1).tolist() == [[*range(51, 58)]] * 2
    short = pad([Turn(prompt[:20], [2] * 30)] * 9).layout
    assert all(block.starts is None for block in short.blocks), "of long rows less than half is not left out"


def test_a_gpu_takes_the_table_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SCORES", 1)
    monkeypatch.setattr("rlhf.batching.layout.on_gpu", lambda: True)
    layout = pad([Turn([2, 3], [4]), Turn([2, 3], [5, 6])]).layout
    (block,) = layout.blocks
    assert block.keys is block.queries is layout.places
    assert block.before() is None
    assert block.queries.flatten()[layout.homes[:5]].tolist() == [*range(5)]


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
