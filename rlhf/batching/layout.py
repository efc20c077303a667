"""How a model reads a batch: every token once, in one row, a prompt that several answers share among them.

table   x x a a a      packed   x x a a a b b y y y c      Where each token of the table stands in the row, and the
        x x b b                                            other way round, is all that attention has to know.
        y y y c
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


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
    homes: Tensor  # (N,) int64, where each token stands in the flattened table: in the first of the rows that share it

    def to(self, device: torch.device) -> "Layout":
        """The same layout on `device`."""
        return Layout(*(t.to(device) for t in (self.ids, self.positions, self.places, self.homes)))


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
    homes = read.flatten().nonzero().squeeze(1)
    homes = pad(homes, (0, rounded(len(homes)) - len(homes)))
    places = torch.where(read, place, place[first]).clamp(min=0)
    return Layout(ids.flatten()[homes], position.flatten()[homes], places, homes)
