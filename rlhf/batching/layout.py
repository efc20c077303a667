"""How a model reads a batch: every token once, in one row, a prompt that several answers share among them.

table   x x a a a      packed   x x a a a b b y y y c      Where the tokens of the table stand in the row, and the
        x x b b                                            other way round, is all that attention has to know. On a CPU
        y y y c                                            it works on a few rows of like length at a time, and a prompt
                                                           attends in the first of its rows alone, where that pays.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.batching.transfer import to_device
from rlhf.models.machine import on_gpu

SCORES = 2**16  # of a head that attention makes at once on a CPU, in rows of like length: they stay in a core's cache


def rounded(length: int) -> int:
    """The next length to which rows are padded: a multiple of 64, or one of sixteen an octave.

    Lengths are few then, and so are the kernels that libraries compile for each and keep.
    """
    step = max(64, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


class Block(NamedTuple):
    """b rows that attention takes at once, of at most t tokens, at most u of which attend in it."""

    keys: Tensor  # (b, t) int64, `places` of the rows; anywhere, where there is no token
    queries: Tensor  # (b, u) int64, the same of those that attend: all, or what follows a shared prompt
    starts: Tensor | None  # (b,) int64, position of each row's first query; None: queries are keys

    def before(self) -> Tensor | None:
        """(b, 1, u, t) fp32, -inf on keys that come after the query; None where plain causal attention does that."""
        if self.starts is None:
            return None
        position = torch.arange(self.keys.shape[1], device=self.keys.device)
        query = self.starts[:, None] + position[: self.queries.shape[1]]
        after = position > query[..., None]
        return torch.zeros(after.shape, device=after.device).masked_fill_(after, -torch.inf)[:, None]

    def to(self, device: torch.device) -> "Block":
        """The same rows on `device`."""
        keys = to_device(self.keys, device)
        if self.starts is None:
            return Block(keys, keys, None)
        return Block(keys, to_device(self.queries, device), to_device(self.starts, device))


@dataclass(frozen=True, slots=True)
class Layout:
    """N tokens in one row. A token depends on those before it in its own sequence, and on nothing else."""

    ids: Tensor  # (N,) int64
    positions: Tensor  # (N,) int64, each token's in its own sequence
    places: Tensor  # (B, T) int64, where each token of the table stands in the row; anywhere, where there is no token
    blocks: tuple[Block, ...]
    homes: Tensor  # (N,) int64, where each token stands in the queries of the blocks, end to end

    def to(self, device: torch.device) -> "Layout":
        """The same layout on `device`."""
        ids, positions, places = (to_device(t, device) for t in (self.ids, self.positions, self.places))
        blocks = tuple(block.to(device) for block in self.blocks)
        return Layout(ids, positions, places, blocks, to_device(self.homes, device))


def lay_out(ids: Tensor, attention: Tensor, starts: Tensor, prompts: Tensor) -> Layout:
    """The layout of a table, (B, T), padded on the right.

    starts: (B,) tokens of each prompt. prompts: (B,) number of each row's prompt; rows side by side with the same
    number share it.
    """
    shares = torch.zeros_like(prompts, dtype=torch.bool)
    shares[1:] = prompts[1:] == prompts[:-1]
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    skipped = starts * shares  # a shared prompt is read in the first of its rows
    read = attention & (position >= skipped[:, None])
    place = read.flatten().cumsum(0).view_as(ids) - 1
    first = (~shares).nonzero().squeeze(1)[(~shares).cumsum(0) - 1]  # (B,) the row that brings the prompt
    tokens = read.flatten().nonzero().squeeze(1)
    tokens = pad(tokens, (0, rounded(len(tokens)) - len(tokens)))
    places = torch.where(read, place, place[first]).clamp(min=0)
    positions = position.flatten()[tokens]
    blocks, begins = _blocks(places, attention.sum(dim=1), skipped)
    return Layout(ids.flatten()[tokens], positions, places, blocks, begins[tokens // ids.shape[1]] + positions)


def _blocks(places: Tensor, lengths: Tensor, skipped: Tensor) -> tuple[tuple[Block, ...], Tensor]:
    """The rows of a table in blocks, and where a query of position 0 of each row would stand in these, end to end.

    Longest rows first; after these the rows that skip a shared prompt, where that saves what a block costs. Long rows
    skip no less than half of theirs: torch's own attention leaves out what comes after a query only where all attend.
    A GPU takes the table as it is: it idles on less.
    """
    if on_gpu():
        return (Block(places, places, None),), torch.arange(len(places), device=places.device) * places.shape[1]
    skipped = skipped * ((lengths**2 <= SCORES) | (2 * skipped >= lengths))
    if int((skipped * lengths).sum()) < SCORES:
        skipped = torch.zeros_like(skipped)
    blocks, begins, end, own = list[Block](), -skipped, 0, (lengths - skipped).clamp(min=1)
    longest = lengths.argsort(descending=True, stable=True)
    for rows in (longest[skipped[longest] == 0], longest[skipped[longest] > 0]):
        while len(rows):
            width = int(lengths[rows[0]])
            some, rows = rows.tensor_split([max(1, SCORES // (width * int(own[rows].max())))])
            blocks.append(_block(places[some, :width], skipped[some], int(own[some].max())))
            begins[some] += torch.arange(len(some)) * blocks[-1].queries.shape[1] + end
            end += blocks[-1].queries.numel()
    return tuple(blocks), begins


def _block(keys: Tensor, starts: Tensor, own: int) -> Block:
    if not starts.any():
        return Block(keys, keys, None)
    position = starts[:, None] + torch.arange(own)
    return Block(keys, keys.gather(1, position.clamp(max=keys.shape[1] - 1)), starts)
