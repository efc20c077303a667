"""A key-value cache of tensors that are made once: new tokens are written in place, and rows can leave."""

from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from rlhf.models.machine import product_dtype


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer, (B, heads, length, d) each, of which the first `filled` columns are written."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self.keys, self.values, self._filled = keys, values, filled
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the layer begins with its tensors."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens behind the others; returns those of all tokens, as views."""
        new = slice(self._filled, self._filled + key_states.shape[2])
        self.keys[:, :, new], self.values[:, :, new] = key_states, value_states
        self._filled = new.stop
        return self.keys[:, :, : new.stop], self.values[:, :, : new.stop]

    def move(self, source: Tensor, target: Tensor, count: int) -> None:
        """Copy rows `source` over rows `target`, then keep the first `count` rows."""
        for states in (self.keys, self.values):
            states[target, :, : self._filled] = states[source, :, : self._filled]
        self.keys, self.values = self.keys[:count], self.values[:count]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that `query_length` new tokens attend to, and the first of them."""
        return self._filled + query_length, 0

    def get_seq_length(self) -> int:
        """Columns that are written."""
        return self._filled

    def get_max_length(self) -> int:
        """Columns that there are."""
        return self.keys.shape[2]


class PreallocatedCache(Cache):
    """A cache of B rows: what any decoder of transformers takes as `past_key_values`."""

    @classmethod
    def behind(cls, prompts: Sequence[tuple[Cache, Tensor]], width: int, length: int) -> Self:
        """Room for `length` columns, of which the first `width` hold prompts, padded on the left.

        prompts: caches that were filled by prompts, and which row of it each row here begins with. The rows of the
        first come first.
        """
        rows = [index for _, index in prompts]
        return cls(
            layers=[
                PreallocatedLayer(
                    _joined([part.keys for part in parts], rows, width, length),
                    _joined([part.values for part in parts], rows, width, length),
                    filled=width,
                )
                for parts in zip(*(cache.layers for cache, _ in prompts), strict=True)
            ]
        )

    def keep(self, rows: Tensor) -> None:
        """Row i becomes row rows[i], which is i itself or lies behind the rows kept: only those are copied."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        for layer in cast(list[PreallocatedLayer], self.layers):
            layer.move(rows[moved], moved, len(rows))


def _joined(parts: Sequence[Tensor], rows: Sequence[Tensor], width: int, length: int) -> Tensor:
    """(B, heads, length, d) with chosen rows of each part, (U, heads, P, d), up to column `width`; zero elsewhere.

    As attention reads them: under autocast it would cast the whole cache for every token.
    """
    _, heads, _, d = parts[0].shape
    joined = parts[0].new_zeros(sum(map(len, rows)), heads, length, d, dtype=product_dtype(parts[0]))
    start = 0
    for states, index in zip(parts, rows, strict=True):
        joined[start : start + len(index), :, width - states.shape[2] : width] = states[index]
        start += len(index)
    return joined
