"""The tables of a workspace as parquet files: their columns, and reading and writing them.

A prompt is a list of messages {"role": "system" | "user" | "assistant", "content": str}; the last one is the user's.
An answer is a string. A judgement names its annotator and the group that the annotator belongs to, "" where unknown,
and the criterion by which it was made (helpful, harmless), `overall` where none was named.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rlhf.errors import DataError
from rlhf.garbage import loading

if TYPE_CHECKING:
    import pandas as pd

Message = dict[str, str]
Prompt = list[Message]
Row = dict[str, Any]

TEXT = pa.string()
MESSAGES = pa.list_(pa.struct({"role": TEXT, "content": TEXT}))
_ANNOTATOR = {"annotator": TEXT, "group": TEXT, "criterion": TEXT, "source": TEXT}

FEEDBACK = ("rankings", "comparisons", "ratings", "thumbs")  # the tables of judgements, as they follow one another
MIN_ANSWERS, MAX_ANSWERS = 2, 9  # K of a ranking

COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "demonstrations": {"id": TEXT, "prompt": MESSAGES, "response": TEXT, "use_case": TEXT, "source": TEXT},
    "comparisons": {
        "id": TEXT,
        "prompt": MESSAGES,
        "chosen": TEXT,
        "rejected": TEXT,
        "tie": pa.bool_(),
        "strength": pa.float64(),  # 1.0 where the annotator was not asked
        **_ANNOTATOR,
    },
    "ratings": {
        "id": TEXT,
        "prompt": MESSAGES,
        "response": TEXT,
        "rating": pa.int64(),  # 1..scale, scale is best
        "scale": pa.int64(),
        **_ANNOTATOR,
    },
    "thumbs": {"id": TEXT, "prompt": MESSAGES, "response": TEXT, "thumb": pa.bool_(), **_ANNOTATOR},
    "rankings": {
        "id": TEXT,
        "prompt": MESSAGES,
        "responses": pa.list_(TEXT),  # K of them
        "ranks": pa.list_(pa.int64()),  # 1 is best, equal ranks are a tie
        **_ANNOTATOR,
    },
    "beliefs": {
        "id": TEXT,
        "prompt": MESSAGES,
        "statements": pa.list_(TEXT),  # each the words in which an answer states a belief
        "votes": pa.list_(pa.int64()),  # of so many people
        "group": TEXT,
        "source": TEXT,
    },
    "prompts": {"id": TEXT, "prompt": MESSAGES, "use_case": TEXT, "kind": TEXT, "source": TEXT},
    "texts": {"id": TEXT, "text": TEXT, "source": TEXT},
}

# What a reader adds to a raw row: its 0-based place in the source, the faults that only a reader sees, why the record
# was not read (then the row holds nothing else), and for a comparison the context of the rejected answer where it is
# not that of the chosen one.
RAW = {"row": pa.int64(), "defects": pa.list_(TEXT), "unreadable": TEXT}
RAW_COMPARISON = {**RAW, "rejected_prompt": MESSAGES}

DEFAULTS: Row = {
    "use_case": "",
    "kind": "user",
    "annotator": "",
    "group": "",
    "criterion": "overall",
    "tie": False,
    "strength": 1.0,
}


def raw_columns(table: str) -> dict[str, pa.DataType]:
    """Columns of a table in data/raw."""
    return COLUMNS[table] | (RAW_COMPARISON if table == "comparisons" else RAW)


def write_rows(folder: Path, table: str, rows: Iterable[Row]) -> None:
    """Write raw rows (dicts that hold `raw_columns`) to data/raw."""
    _write(folder, table, pa.Table.from_pylist(list(rows), schema=pa.schema(raw_columns(table))))


def write_frame(folder: Path, table: str, frame: "pd.DataFrame", extra: Mapping[str, pa.DataType]) -> None:
    """Write a frame with the columns of its table and the `extra` ones; other columns are left out."""
    schema = pa.schema(COLUMNS[table] | dict(extra))
    columns = {name: _array(frame[name], schema.field(name).type) for name in schema.names}
    _write(folder, table, pa.table(columns, schema=schema))


def read_tables(folder: Path, tables: Iterable[str] = COLUMNS) -> dict[str, "pd.DataFrame"]:
    """Those of the tables that are in data/raw, data/clean or data/judgements, in their order."""
    return {table: read_table(folder, table) for table in tables if (folder / f"{table}.parquet").exists()}


def read_table(folder: Path, table: str) -> "pd.DataFrame":
    """One table. A prompt is an array of messages, one object in all the rows that hold it: judgements share prompts.

    Raises DataError when the file is not one that was written here.
    """
    path = folder / f"{table}.parquet"
    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is not a parquet table: {error}") from None
    names, prompts = rows.column_names, {name: rows[name] for name in rows.column_names if rows[name].type == MESSAGES}
    frame = rows.drop_columns(list(prompts)).to_pandas(split_blocks=True, self_destruct=True)  # a column at a time
    del rows
    with loading():
        return frame.assign(**{name: _objects(prompts.pop(name)) for name in [*prompts]})[names]


def of_each_object(function: Callable[[Any], Any], values: "pd.Series") -> "pd.Series":
    """`function` of the object in every row, called once for each object; rows that share one share its result."""
    which, once = _once(values)
    found = once.map(function)
    return (found.astype(object) if found.dtype == "str" else found).iloc[which].set_axis(values.index)


def _once(values: "pd.Series") -> tuple[NDArray[np.int64], "pd.Series"]:
    """Each object of a column once, in order, and (rows,) which of them a row holds."""
    import pandas as pd

    addresses = np.frombuffer(np.ascontiguousarray(values, dtype=object), np.intp)  # id() of each, none looked at
    which, objects = pd.factorize(addresses)
    first = np.zeros(len(objects), dtype=np.int64)
    first[which[::-1]] = np.arange(len(values))[::-1]
    return which, values.iloc[first]


def _array(values: "pd.Series", kind: pa.DataType) -> pa.Array:
    """A column as it is written; prompts are made of Python's objects, and so each is converted once."""
    if kind != MESSAGES:
        return pa.array(values, kind, from_pandas=True)
    which, once = _once(values)
    return pa.array(once, kind, from_pandas=True).take(pa.array(which))


def _objects(prompts: pa.ChunkedArray) -> NDArray[np.object_]:
    """(rows,) of arrays of messages, None where there is none; those that are equal are found by a key of their own."""
    lists = prompts.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    text, parts = pa.large_string(), list[Any]()
    for field in lists.flatten().flatten():  # role and content of every message, each after its length
        parts += [pc.binary_length(field).cast(text), pa.scalar(":", text), field.cast(text)]
    messages = pc.binary_join_element_wise(*parts, pa.scalar("", text), null_handling="replace", null_replacement="-")
    keys = pc.binary_join(pa.LargeListArray.from_arrays(offsets, messages), pa.scalar("", text)).dictionary_encode()
    codes, first = np.unique(keys.indices, return_index=True)
    kinds = np.empty(len(codes), dtype=object)
    kinds[:] = lists.take(pa.array(first)).to_pandas()
    found = kinds[keys.indices]
    found[lists.is_null().to_numpy(zero_copy_only=False)] = None
    return found


def _write(folder: Path, table: str, rows: pa.Table) -> None:
    """Without pandas' own metadata, so that equal rows give equal bytes."""
    pq.write_table(rows.replace_schema_metadata(None), folder / f"{table}.parquet", compression="zstd")
