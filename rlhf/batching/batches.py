"""Batch records, padded on the right. Masks are carried, never derived from token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from rlhf.batching.encoding import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """B sequences of up to T tokens."""

    ids: Tensor  # (B, T) int64, 0 where there is no token
    attention: Tensor  # (B, T) bool, True on tokens
    mask: Tensor  # (B, T) bool, True on the tokens that count: those of the response

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """Number of tokens that count."""
        return int(self.mask.sum())

    def rows(self, index: Tensor | slice) -> "SequenceBatch":
        """Some of the rows, trimmed to the longest of them."""
        width = int(self.attention[index].sum(dim=1).max())
        return SequenceBatch(
            ids=self.ids[index, :width], attention=self.attention[index, :width], mask=self.mask[index, :width]
        )

    def to(self, device: torch.device) -> "SequenceBatch":
        """The same batch on `device`."""
        return SequenceBatch(ids=self.ids.to(device), attention=self.attention.to(device), mask=self.mask.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingBatch:
    """B prompts with up to K ranked answers each; the answers of all prompts stand in one batch of sequences."""

    sequences: SequenceBatch  # (S, T), the answers of prompt 0, then those of prompt 1, ...
    ranks: Tensor  # (B, K) int64, 1 is best, equal is a tie, 0 where there is no answer
    mask: Tensor  # (B, K) bool, True where an answer exists

    def __len__(self) -> int:
        return len(self.ranks)

    def to(self, device: torch.device) -> "RankingBatch":
        """The same batch on `device`."""
        return RankingBatch(sequences=self.sequences.to(device), ranks=self.ranks.to(device), mask=self.mask.to(device))

    def per_answer(self, values: Tensor) -> Tensor:
        """Arrange one value a sequence, (S,), as (B, K), zero where there is no answer."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


@dataclass(frozen=True, slots=True)
class RankedTurns:
    """One prompt's ranked answers as token ids."""

    answers: tuple[Turn, ...]
    ranks: tuple[int, ...]


def pad(turns: Sequence[Turn]) -> SequenceBatch:
    """Prompts and responses side by side, padded on the right; response tokens count, but for those that are given."""
    starts = np.array([len(t.prompt) for t in turns])[:, None]
    ends = starts + np.array([len(t.response) for t in turns])[:, None]
    position = np.arange(ends.max())
    attention = position < ends
    ids = np.zeros(attention.shape, dtype=np.int64)
    ids[attention] = np.fromiter(chain.from_iterable(chain(t.prompt, t.response) for t in turns), np.int64, ends.sum())
    first, last = np.hsplit(starts + np.array([t.given for t in turns]), 2)
    mask = attention & (position >= starts) & ~((first <= position) & (position < last))
    return SequenceBatch(ids=torch.from_numpy(ids), attention=torch.from_numpy(attention), mask=torch.from_numpy(mask))


def pad_rankings(groups: Sequence[RankedTurns]) -> RankingBatch:
    """Several prompts' rankings as one batch."""
    widest = max(len(g.ranks) for g in groups)
    ranks = torch.tensor([[*g.ranks, *[0] * (widest - len(g.ranks))] for g in groups])
    return RankingBatch(sequences=pad([t for g in groups for t in g.answers]), ranks=ranks, mask=ranks > 0)
