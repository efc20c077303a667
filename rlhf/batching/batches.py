"""Batch records, padded on the right. Masks are carried, never derived from token ids.

A batch is a table, a row a sequence: what formulas index. A model may read it by its layout, where nothing is padding
and a prompt that several rows share stands once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rlhf.batching.encoding import Ids, Turn
from rlhf.batching.layout import Layout, lay_out
from rlhf.batching.order import Indices
from rlhf.batching.transfer import to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """B sequences of up to T tokens."""

    ids: Tensor  # (B, T) int64, 0 where there is no token
    attention: Tensor  # (B, T) bool, True on tokens
    mask: Tensor  # (B, T) bool, True on the tokens that count: those of the response
    counted: Tensor  # (N,) int64, where these stand in the table, row by row: indices, which no GPU has to count
    starts: Tensor  # (B,) int64, P of each row: where its response starts
    prompts: Tensor  # (B,) int64, number of each row's prompt; side by side, rows of one number share it
    layout: Layout  # the same tokens in one row, each once

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """Number of tokens that count."""
        return len(self.counted)

    def per_token(self, values: Tensor) -> Tensor:
        """Arrange one value a counted token, (N,), as (B, T), zero elsewhere."""
        return values.new_zeros(self.mask.numel()).index_copy(0, self.counted, values).view(self.mask.shape)

    def rows(self, index: Tensor | slice) -> "SequenceBatch":
        """Some of the rows, trimmed to the longest of them."""
        width = int(self.attention[index].sum(dim=1).max())
        ids, attention, mask = (tensor[index, :width] for tensor in (self.ids, self.attention, self.mask))
        return make_batch(ids, attention, mask, self.starts[index], self.prompts[index])

    def to(self, device: torch.device) -> "SequenceBatch":
        """The same batch on `device`."""
        layout = self.layout.to(device)
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layout"}
        return SequenceBatch(layout=layout, **{name: to_device(tensor, device) for name, tensor in tensors.items()})


def make_batch(ids: Tensor, attention: Tensor, mask: Tensor, starts: Tensor, prompts: Tensor) -> SequenceBatch:
    """A batch, laid out. The arguments as in `SequenceBatch`."""
    return SequenceBatch(
        ids=ids,
        attention=attention,
        mask=mask,
        counted=mask.flatten().nonzero().squeeze(1),
        starts=starts,
        prompts=prompts,
        layout=lay_out(ids, attention, starts, prompts),
    )


@dataclass(frozen=True, slots=True)
class RankingBatch:
    """B prompts with up to K ranked answers each; the answers of all prompts stand in one batch of sequences."""

    sequences: SequenceBatch  # (S, T), the answers of prompt 0, then those of prompt 1, ...
    ranks: Tensor  # (B, K) int64, 1 is best, equal is a tie, 0 where there is no answer
    mask: Tensor  # (B, K) bool, True where an answer exists

    def __len__(self) -> int:
        return len(self.ranks)

    def to(self, device: torch.device) -> "RankingBatch":
        """The same batch on `device`."""
        return RankingBatch(self.sequences.to(device), to_device(self.ranks, device), to_device(self.mask, device))

    def per_answer(self, values: Tensor) -> Tensor:
        """Arrange one value a sequence, (S,), as (B, K), zero where there is no answer."""
        return arranged(values, self.mask)


RankedPart = tuple[Indices, RankingBatch]  # a micro-batch: which rankings of all these are, (B,), and they


@dataclass(frozen=True, slots=True)
class RankedTurns:
    """One prompt's ranked answers as token ids."""

    answers: tuple[Turn, ...]
    ranks: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of the prompt and all its answers."""
        return len(self.answers[0].prompt) + sum(len(t.response) for t in self.answers)


def pad(turns: Sequence[Turn]) -> SequenceBatch:
    """Prompts and responses side by side, padded on the right; response tokens count, but for those that are given.

    Neighbours with equal prompts share theirs.
    """
    starts = np.array([len(t.prompt) for t in turns])[:, None]
    ends = starts + np.array([len(t.response) for t in turns])[:, None]
    position = np.arange(ends.max())
    attention = position < ends
    ids = np.zeros(attention.shape, dtype=np.int64)
    ids[attention] = np.concatenate([part for t in turns for part in (t.prompt, t.response)])
    first, last = np.hsplit(starts + np.array([t.given for t in turns]), 2)
    mask = attention & (position >= starts) & ~((first <= position) & (position < last))
    prompts = np.cumsum([0, *(not _equal(a.prompt, b.prompt) for a, b in pairwise(turns))])
    return make_batch(*map(torch.from_numpy, (ids, attention, mask, starts[:, 0], prompts)))


def pad_rankings(groups: Sequence[RankedTurns]) -> RankingBatch:
    """Several prompts' rankings as one batch."""
    widest = max(len(g.ranks) for g in groups)
    ranks = torch.tensor([[*g.ranks, *[0] * (widest - len(g.ranks))] for g in groups])
    return RankingBatch(sequences=pad([t for g in groups for t in g.answers]), ranks=ranks, mask=ranks > 0)


def arranged(values: Tensor, mask: Tensor) -> Tensor:
    """Values, (S,), in a row where the mask is True, zero elsewhere: (B, K), as the mask."""
    return torch.where(mask, values[mask.flatten().cumsum(0).view_as(mask) - 1], values.new_zeros(()))


def _equal(one: Ids, other: Ids) -> bool:
    return one is other or np.array_equal(one, other)
