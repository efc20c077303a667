"""Good rows and bad rows: a bad row is kept, with every reason it failed."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa

from rlhf.data.schemas import (
    Belief,
    Comparison,
    Demonstration,
    PlainText,
    Prompt,
    Ranking,
    Rating,
    Thumb,
    items,
)
from rlhf.data.tables import Message, of_each_object
from rlhf.errors import DataError

SCHEMAS: dict[str, type[pa.DataFrameModel]] = {
    "demonstrations": Demonstration,
    "comparisons": Comparison,
    "ratings": Rating,
    "thumbs": Thumb,
    "rankings": Ranking,
    "beliefs": Belief,
    "prompts": Prompt,
    "texts": PlainText,
}

# How many characters each column that holds text has.
LENGTHS: dict[str, Callable[[pd.Series], pd.Series]] = {
    "prompt": lambda prompts: of_each_object(_characters, prompts),
    "response": lambda texts: texts.str.len(),
    "chosen": lambda texts: texts.str.len(),
    "rejected": lambda texts: texts.str.len(),
    "responses": lambda answers: answers.map(lambda texts: max((len(text or "") for text in items(texts)), default=0)),
    "statements": lambda beliefs: beliefs.map(lambda texts: max((len(t or "") for t in items(texts)), default=0)),
    "text": lambda texts: texts.str.len(),
}


def _characters(prompt: Sequence[Message]) -> int:
    return sum(len(message["content"] or "") for message in prompt)


def check(table: str, rows: pd.DataFrame, max_characters: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split raw rows into clean ones and bad ones; the bad ones get a column `reasons` (list[str], sorted).

    Reasons are the failed checks of the table's schema and the `defects` that the reader of the source noted; or why
    the record was not read. Raises DataError when a column is missing or has a type that no check can read.
    """
    rows = rows.reset_index(drop=True)
    read = rows["unreadable"].isna()
    unread = pd.DataFrame({"row": rows.index[~read], "reason": rows.loc[~read, "unreadable"]})
    failures = pd.concat([_schema_failures(table, rows[read], max_characters), _defects(rows[read]), unread])
    reasons = failures.drop_duplicates().sort_values(["row", "reason"]).groupby("row")["reason"].agg(list)
    bad = np.zeros(len(rows), dtype=bool)
    bad[reasons.index] = True
    return rows[~bad], rows[bad].assign(reasons=reasons)


def _schema_failures(table: str, rows: pd.DataFrame, max_characters: int) -> pd.DataFrame:
    """Columns `row`, `reason`: one for each check that a row fails."""
    schema = copy.deepcopy(SCHEMAS[table].to_schema())
    for column in LENGTHS.keys() & schema.columns.keys():
        schema.columns[column].checks.append(_short_enough(column, max_characters))
    try:
        schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            faults = "; ".join(
                sorted({f"{case.column}: {case.check}" for case in cases[cases["index"].isna()].itertuples()})
            )
            raise DataError(
                f"table {table} does not have the columns that collect writes ({faults}). Run collect again"
            ) from None
        reason = cases["check"].where(cases["check"] != "not_nullable", cases["column"] + " is missing")
        return pd.DataFrame({"row": cases["index"].astype(int), "reason": reason})
    return pd.DataFrame({"row": np.array([], dtype=int), "reason": []})


def _short_enough(column: str, max_characters: int) -> pa.Check:
    return pa.Check(
        lambda values: LENGTHS[column](values) <= max_characters,
        error=f"{column} longer than {max_characters} characters",
    )


def _defects(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns `row`, `reason`: what the readers noted."""
    noted = rows["defects"].explode().dropna()
    return pd.DataFrame({"row": noted.index.astype(int), "reason": noted.astype(object).to_numpy()})
