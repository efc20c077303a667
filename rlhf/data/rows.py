"""Rows of a table as plain dicts, for stages that need no data frame."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rlhf.errors import DataError


def read_rows(directory: Path, table: str, split: str | None = None) -> list[dict[str, Any]]:
    """Rows of `directory`/`table`.parquet, of one split if it is named; an absent table has none."""
    path = directory / f"{table}.parquet"
    if not path.is_file():
        return []
    return pq.read_table(path, filters=[("split", "==", split)] if split else None).to_pylist()


def read_judgements(directory: Path, table: str, split: str, criteria: Collection[str]) -> list[dict[str, Any]]:
    """Rows of a table of data/judgements of one split that were judged by any of the criteria.

    Raises DataError, which names what there is, for a criterion by which nobody judged.
    """
    rows = read_rows(directory, table, split)
    known = sorted({row["criterion"] for row in rows})
    if absent := [criterion for criterion in criteria if criterion not in known]:
        raise DataError(
            f"Nobody judged by {', '.join(f'`{name}`' for name in absent)}: the {table} of the {split} split in "
            f"data/judgements were made by {', '.join(known) or 'nobody'}. Correct reward.criteria in params.yaml, or "
            f"label.referee, which deals the train prompts between the splits train and referee, or collect judgements "
            f"whose column `criterion` names it"
        )
    return [row for row in rows if row["criterion"] in criteria]
