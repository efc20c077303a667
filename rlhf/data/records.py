"""What a source holds: records, and a word in the place of each that cannot be read."""

from dataclasses import dataclass
from typing import Any

from rlhf.data.tables import DEFAULTS, Row

Record = dict[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """A record that is not read."""

    reason: str

    def row(self, place: int) -> Row:
        """The row of any table that stands for it; `place` is where it was."""
        return DEFAULTS | {"row": place, "unreadable": self.reason}


Entry = Record | Unreadable


def too_long(limit: int) -> Unreadable:
    """The word for a record of more than `limit` bytes."""
    return Unreadable(f"longer than {limit:,} bytes")
