"""Tables of the train, validation and test splits as token ids, encoded once for all the stages that read them."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlhf import manifest
from rlhf.batching.encoding import Turns, encode_turns
from rlhf.batching.rankings import Rankings, encode_rankings
from rlhf.data.rows import read_judgements, read_rows
from rlhf.models.cached import cached
from rlhf.pipeline.stage import Stage


def read_rankings(
    stage: Stage, tokenizer: PreTrainedTokenizerBase, split: str, criteria: Collection[str]
) -> tuple[Rankings, NDArray[np.int64], int]:
    """Rankings by any of the criteria that fit `tokens`, which of the rows they are, and how many answers did not.

    Raises DataError for a criterion by which nobody judged.
    """
    limits, directory = stage.config.tokens, stage.input("data/judgements")
    path = stage.kept(
        read_rankings,
        tokenizer=stage.inputs["models/sft"],
        table=stage.inputs["data/judgements"],
        split=split,
        criteria=sorted(criteria),
        limits=limits.model_dump(),
    )

    def encode() -> dict[str, NDArray]:
        rows = read_judgements(directory, "rankings", split, criteria)
        made, stays, too_long = encode_rankings(tokenizer, rows, limits)
        return made.arrays() | {"rows": np.flatnonzero(stays), "too_long": np.array(too_long)}

    found = cached(path, encode)
    return Rankings.of(found), found["rows"].numpy(), int(found["too_long"])


def read_groups(stage: Stage, split: str, criteria: Collection[str], rows: NDArray[np.int64]) -> list[str]:
    """Of which group of people each of some rankings is; those of people who name none are a group too.

    rows: of the rankings, as `read_rankings` gives them.
    """
    judged = read_judgements(stage.input("data/judgements"), "rankings", split, criteria)
    return [str(judged[row]["group"]) or "no group" for row in rows]


def read_thumbs(
    stage: Stage, tokenizer: PreTrainedTokenizerBase, criteria: Collection[str]
) -> tuple[Turns, NDArray[np.bool_]]:
    """Answers of the train split that were judged one by one, by any of the criteria, and which of them were good."""
    directory = stage.input("data/judgements")
    path = stage.kept(
        read_thumbs,
        tokenizer=stage.inputs["models/sft"],
        table=stage.inputs["data/judgements"],
        criteria=sorted(criteria),
    )

    def encode() -> dict[str, NDArray]:
        rows = read_judgements(directory, "thumbs", "train", criteria)
        return encode_turns(tokenizer, rows).arrays() | {"up": np.array([row["thumb"] for row in rows], dtype=bool)}

    found = cached(path, encode)
    return Turns.of(found), found["up"].numpy()


def read_demonstrations(stage: Stage, tokenizer: PreTrainedTokenizerBase, split: str) -> Turns:
    """Demonstrations of a split."""
    file = stage.input("data/clean/demonstrations.parquet")
    table, base = manifest.digest(file), stage.inputs["models/base"]
    path = stage.kept(read_demonstrations, tokenizer=base, table=table, split=split)
    return Turns.of(
        cached(path, lambda: encode_turns(tokenizer, read_rows(file.parent, "demonstrations", split)).arrays())
    )
