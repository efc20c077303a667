"""One table of prompts from everything that holds one, each prompt once."""

from collections.abc import Mapping

import pandas as pd

from rlhf.data.ids import opening_hash, prompt_hash, text_hash
from rlhf.data.tables import COLUMNS, DEFAULTS, of_each_object
from rlhf.errors import DataError

HASH = "prompt_hash"  # column that a frame carries while it is worked on; it is not written
_HOLDERS = ("prompts", "demonstrations", "comparisons", "ratings", "thumbs", "rankings", "beliefs")


def with_hashes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `prompt_hash`; rows without a prompt stay as they are."""
    if "prompt" not in rows:
        return rows
    return rows.assign(**{HASH: of_each_object(prompt_hash, rows["prompt"])})


def split_keys(rows: pd.DataFrame) -> pd.Series:
    """What decides the split of each row of a table with hashes: how its conversation opens, so that what goes on from
    one question is in one split; of a plain text, the text."""
    if "prompt" not in rows:
        return rows["text"].map(text_hash)
    keys, longer = rows[HASH].copy(), of_each_object(len, rows["prompt"]) > 1
    keys[longer] = of_each_object(opening_hash, rows.loc[longer, "prompt"])
    return keys


def all_prompts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table `prompts` with hashes, from tables with hashes. A prompt that stands in several rows is taken from the
    first one of the first table, so that use case and kind are kept where somebody gave them. Its id is its hash.

    Raises DataError where no table holds prompts.
    """
    frames = [_prompts_of(tables[table]) for table in _HOLDERS if table in tables]
    if not frames:
        raise DataError(
            f"Nothing here holds a prompt, but {', '.join(tables)} alone. Add a source of {', '.join(_HOLDERS)} to "
            "collect.sources"
        )
    prompts = pd.concat(frames, ignore_index=True)
    return prompts[~prompts[HASH].duplicated()].reset_index(drop=True)


def _prompts_of(rows: pd.DataFrame) -> pd.DataFrame:
    once = rows[~rows[HASH].duplicated()]
    absent = {column: DEFAULTS[column] for column in ("use_case", "kind") if column not in rows}
    return once.assign(**absent, id=once[HASH].str[:16])[[*COLUMNS["prompts"], HASH]]
