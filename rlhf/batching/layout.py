"""How a model reads a batch: a prompt once, with all its answers behind it, where that costs less than a copy for each.

    table   x x a a a      tree   x x a a a b b      An answer sees its prompt and itself, and its positions go on from
            x x b b               y y y c            the prompt's, so that every hidden state is that of the table.
            y y y c

A tree of K answers has P + R_1 + ... + R_K tokens, K rows of the table K P + R_1 + ... + R_K; but attention is computed
over the square of what stands in one row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# A token costs a layer 13 d^2 multiplications (Llama's shapes) and 2 d more for each token of its row. Equal at d = 64,
# the narrowest model in use; a wider one gains from sharing wherever this one does.
_ROW_LENGTH_OF_EQUAL_COST = 400


@dataclass(frozen=True, slots=True)
class Layout:
    """M rows of up to L tokens."""

    ids: Tensor  # (M, L) int64, 0 where there is no token
    places: Tensor  # (B, T) int64, where each token of the table stands in the flattened `ids`
    positions: Tensor | None = None  # (M, L) int64, each token's in its own sequence; None: as in the row
    branches: Tensor | None = None  # (M, L) int64: 0 prompt, 1, 2, ... its answers, -1 no token; None: no row is a tree

    def to(self, device: torch.device) -> "Layout":
        """The same layout on `device`."""
        positions, branches = (None if t is None else t.to(device) for t in (self.positions, self.branches))
        return Layout(self.ids.to(device), self.places.to(device), positions, branches)

    def inputs(self) -> dict[str, Tensor]:
        """What a model of transformers takes. For trees, a mask (M, 1, L, L) bool, True where a token sees another.

        Other rows are padded on the right, so that no token has padding before it to be kept from.
        """
        if self.branches is None or self.positions is None:
            return {"input_ids": self.ids}
        seeing, seen = self.branches[:, None, :, None], self.branches[:, None, None, :]
        sees = ((seen == 0) | (seen == seeing)).tril()
        return {"input_ids": self.ids, "attention_mask": sees, "position_ids": self.positions}


def table(ids: Tensor) -> Layout:
    """Every row as it stands, (B, T)."""
    return Layout(ids, torch.arange(ids.numel(), device=ids.device).view(ids.shape))


def lay_out(ids: Tensor, attention: Tensor, starts: Tensor, prompts: Tensor) -> Layout:
    """Trees or the table, whichever costs less.

    ids, attention: (B, T), padded on the right. starts: (B,) tokens of each prompt. prompts: (B,) number of each row's
    prompt; rows side by side with the same number share it.
    """
    shares = torch.zeros_like(prompts, dtype=torch.bool)
    shares[1:] = prompts[1:] == prompts[:-1]
    if not shares.any():
        return table(ids)
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    read = attention & (position >= (starts * shares)[:, None])  # a shared prompt is read in the first of its rows
    tree = (~shares).cumsum(0) - 1  # (B,)
    first = (~shares).nonzero().squeeze(1)[tree]  # (B,) the row that brings the prompt
    counts = read.sum(dim=1)
    before = counts.cumsum(0) - counts  # (B,) tokens read in the rows above
    column = (before - before[first])[:, None] + read.cumsum(dim=1) - 1
    trees, length = len(ids) - int(shares.sum()), int(column[read].max()) + 1
    if _cost(trees, length) >= _cost(*ids.shape):
        return table(ids)
    places = tree[:, None] * length + column
    places = torch.where(read, places, places[first])

    def arrange(values: Tensor, absent: int) -> Tensor:
        flat = values.new_full((trees * length,), absent)
        flat[places[read]] = values[read]
        return flat.view(trees, length)

    branch = (torch.arange(len(ids), device=ids.device) - first + 1)[:, None] * (position >= starts[:, None])
    return Layout(arrange(ids, 0), places, arrange(position, 0), arrange(branch, -1))


def _cost(rows: int, length: int) -> int:
    """Of a layer, forward, in units of 2 d multiplications."""
    return rows * length * (_ROW_LENGTH_OF_EQUAL_COST + length)
