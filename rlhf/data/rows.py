"""Rows of a table as plain dicts, for stages that need no data frame."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def read_rows(directory: Path, table: str, split: str | None = None) -> list[dict[str, Any]]:
    """Rows of `directory`/`table`.parquet, of one split if it is named; an absent table has none."""
    path = directory / f"{table}.parquet"
    if not path.is_file():
        return []
    return pq.read_table(path, filters=[("split", "==", split)] if split else None).to_pylist()
