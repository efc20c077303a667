"""How a model reads a batch: every token once, in one row, a prompt that several answers share among them.

table   x x a a a      packed   x x a a a b b y y y c      Where the tokens of the table stand in the row, and the
        x x b b                                            other way round, is all that attention has to know. On a CPU
        y y y c                                            it works on a few rows of like length at a time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

SCORES = 2**16  # of a head that attention makes at once on a CPU, in rows of like length: they stay in a core's cache


def rounded(length: int) -> int:
    """The next length to which rows are padded: a multiple of 64, or one of sixteen an octave.

    Lengths are few then, and so are the kernels that libraries compile for each and keep.
    """
    step = max(64, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


@dataclass(frozen=True, slots=True)
class Layout:
    """N tokens in one row. A token depends on those before it in its own sequence, and on nothing else."""

    ids: Tensor  # (N,) int64
    positions: Tensor  # (N,) int64, each token's in its own sequence
    places: Tensor  # (B, T) int64, where each token of the table stands in the row; anywhere, where there is no token
    blocks: tuple[Tensor, ...]  # (b, t) int64, `places` of the rows that attention takes at once
    homes: Tensor  # (N,) int64, where each token stands in the blocks, end to end: in the first row that shares it

    def to(self, device: torch.device) -> "Layout":
        """The same layout on `device`."""
        ids, positions, places, homes = (t.to(device) for t in (self.ids, self.positions, self.places, self.homes))
        return Layout(ids, positions, places, tuple(block.to(device) for block in self.blocks), homes)


def lay_out(ids: Tensor, attention: Tensor, starts: Tensor, prompts: Tensor) -> Layout:
    """The layout of a table, (B, T), padded on the right.

    starts: (B,) tokens of each prompt. prompts: (B,) number of each row's prompt; rows side by side with the same
    number share it.
    """
    shares = torch.zeros_like(prompts, dtype=torch.bool)
    shares[1:] = prompts[1:] == prompts[:-1]
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    read = attention & (position >= (starts * shares)[:, None])  # a shared prompt is read in the first of its rows
    place = read.flatten().cumsum(0).view_as(ids) - 1
    first = (~shares).nonzero().squeeze(1)[(~shares).cumsum(0) - 1]  # (B,) the row that brings the prompt
    tokens = read.flatten().nonzero().squeeze(1)
    tokens = pad(tokens, (0, rounded(len(tokens)) - len(tokens)))
    places = torch.where(read, place, place[first]).clamp(min=0)
    positions = position.flatten()[tokens]
    blocks, begins = _blocks(places, attention.sum(dim=1))
    return Layout(ids.flatten()[tokens], positions, places, blocks, begins[tokens // ids.shape[1]] + positions)


def _blocks(places: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The rows of a table in blocks, longest first, and where each row begins in these, end to end.

    An accelerator takes the table as it is: it idles on less.
    """
    if torch.accelerator.is_available():
        return (places,), torch.arange(len(places), device=places.device) * places.shape[1]
    rows, blocks, begins, end = lengths.argsort(descending=True, stable=True), list[Tensor](), lengths.clone(), 0
    while len(rows):
        width = int(lengths[rows[0]])
        some, rows = rows.tensor_split([max(1, SCORES // width**2)])
        blocks.append(places[some, :width])
        begins[some] = torch.arange(len(some)) * width + end
        end += len(some) * width
    return tuple(blocks), begins
