"""Raw tables for tests, written as the readers write them."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter

from rlhf.config.data import LimitsConfig
from rlhf.data.ids import add_ids
from rlhf.data.prompts import with_hashes
from rlhf.data.sources import Collected, ReadSource, read_source
from rlhf.data.tables import DEFAULTS, Prompt, raw_columns

LIMITS = LimitsConfig(row=1_000_000, source=1_000_000_000)  # as params.yaml
DATA = Path(os.environ.get("RLHF_DATA", Path(__file__).parents[3] / "shared" / "data"))


def user(*turns: str) -> Prompt:
    """A prompt whose turns are the user's and the assistant's in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def raw(table: str, *rows: dict[str, Any]) -> pd.DataFrame:
    """A raw table; what a row does not say is harmless."""
    harmless = {"prompt": user("Why?"), "response": "Because.", "source": "test", "row": 0, "defects": [], "scale": 5}
    filled = [{**DEFAULTS, **harmless, **row} for row in rows]
    add_ids(filled)
    return pa.Table.from_pylist(filled, schema=pa.schema(raw_columns(table))).to_pandas()


def clean(table: str, *rows: dict[str, Any], split: str = "train") -> pd.DataFrame:
    """The same as validate hands it to the checks of the whole set."""
    return with_hashes(raw(table, *rows)).assign(split=split)


def gave(folder: Path, **source: Any) -> Collected:
    """What a source of params.yaml gives; one that is not said to be on the hub is in `folder`."""
    if source["kind"] in ("hub", "dialogues", "trees"):
        source = {"revision": None, "split": None} | source
    if source["kind"] == "dialogues":
        source = {"criterion": "overall"} | source
    return read_source(TypeAdapter(ReadSource).validate_python(source), folder, LIMITS)


def frame(collected: Collected, table: str) -> pd.DataFrame:
    """A table that a source gave."""
    rows = collected.tables[table]
    add_ids(rows)
    return pa.Table.from_pylist(rows, schema=pa.schema(raw_columns(table))).to_pandas()
