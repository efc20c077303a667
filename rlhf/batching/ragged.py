"""Rows of unequal length in one flat array: four bytes a token, and a file of them can be mapped into memory."""

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Row = TypeVar("Row", covariant=True)


class Rows(Sequence[Row], Generic[Row]):
    """A sequence whose rows are made when they are asked for."""

    __slots__ = ()

    @abstractmethod
    def row(self, place: int) -> Row:
        """Row `place`, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        return self.row(places) if isinstance(places, int) else [self.row(place) for place in places]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged(Rows[NDArray[np.int32]]):
    """N rows of integers. Each is a view of the flat array."""

    flat: NDArray[np.int32]  # all rows, end to end
    offsets: NDArray[np.int64]  # (N + 1,) where each row starts, and where the last one ends

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Self:
        """A copy of `rows`, of which one at a time has to be in memory."""
        flat, offsets = array("i"), array("q", [0])
        for row in rows:
            flat.extend(row)
            offsets.append(len(flat))
        return cls(np.asarray(flat), np.asarray(offsets))

    @classmethod
    def named(cls, arrays: Mapping[str, Any], name: str) -> Self:
        """From what `arrays` gave."""
        return cls(np.asarray(arrays[f"{name}.flat"]), np.asarray(arrays[f"{name}.offsets"]))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The two arrays, by names that begin with `name`."""
        return {f"{name}.flat": self.flat, f"{name}.offsets": self.offsets}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) of each row."""
        return np.diff(self.offsets)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """The rows where `chosen`, (N,), is True; a copy, unless that is all of them."""
        if chosen.all():
            return self
        lengths = self.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
        return type(self)(self.flat[np.repeat(chosen, lengths)], offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, place: int) -> NDArray[np.int32]:
        """(length,)."""
        return self.flat[self.offsets[place] : self.offsets[place + 1]]
