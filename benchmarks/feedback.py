"""Comparisons as collect writes them, as many as one likes: what the stage validate is measured on."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.data.tables import MESSAGES, TEXT, raw_columns

WORDS = 5_000  # different ones
SENTENCES = 200_000  # different ones, of which every text is one
A_PROMPT = 4  # comparisons, about
ANNOTATORS, GROUPS = 40, 2
FOLLOW_UP, TIE = 0.2, 0.1  # shares of the prompts with an earlier turn, and of the comparisons without a better answer
BAD = 0.002  # share of the rows with each fault: equal answers, an empty one, a defect that the reader noted


def write_comparisons(file: Path, rows: int, seed: int = 0) -> None:
    """Write a table `comparisons` of data/raw: answers of 3 to 40 words, prompts of one or three messages."""
    random = np.random.default_rng(seed)
    texts = _sentences(random)
    prompts = _prompts(texts, rows // A_PROMPT, random)
    bad, empty, noted = (random.random(rows) < BAD for _ in range(3))
    chosen, rejected = random.integers(SENTENCES, size=(2, rows))
    people = random.integers(ANNOTATORS, size=rows)
    table = {
        "id": pa.array([f"{row:016x}" for row in range(rows)]),
        "prompt": prompts.take(pa.array(random.integers(len(prompts), size=rows))),
        "chosen": texts.take(pa.array(np.where(bad, rejected, chosen))),
        "rejected": pa.array(np.where(empty, " ", texts.take(pa.array(rejected)).to_numpy(zero_copy_only=False))),
        "tie": pa.array(random.random(rows) < TIE),
        "strength": pa.array(np.ones(rows)),
        "annotator": _named("annotator-", people),
        "group": _named("group-", people % GROUPS),
        "criterion": pa.repeat("overall", rows),
        "source": pa.repeat("benchmark", rows),
        "row": pa.array(np.arange(rows)),
        "defects": pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(noted)]), pa.int32()), pa.repeat("prompt is not text", noted.sum())
        ),
        "unreadable": pa.nulls(rows, TEXT),
        "rejected_prompt": pa.nulls(rows, MESSAGES),
    }
    schema = pa.schema(raw_columns("comparisons"))
    pq.write_table(pa.table({name: table[name] for name in schema.names}, schema=schema), file, compression="zstd")


def _sentences(random: np.random.Generator) -> pa.Array:
    """Texts of 3 to 40 words, most of them short."""
    words = np.array(["".join(map(chr, 97 + random.integers(26, size=random.integers(2, 9)))) for _ in range(WORDS)])
    ends = np.cumsum(np.clip(random.lognormal(np.log(12), 0.6, SENTENCES).astype(int), 3, 40))
    drawn = words[random.integers(WORDS, size=ends[-1])]
    return pa.array([f"{' '.join(drawn[start:end])}." for start, end in pairwise([0, *ends])], TEXT)


def _prompts(texts: pa.Array, number: int, random: np.random.Generator) -> pa.Array:
    """Prompts of the user's message alone, or after a turn."""
    lengths = np.where(random.random(number) < FOLLOW_UP, 3, 1)
    ends = np.cumsum(lengths)
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    content = texts.take(pa.array(random.integers(SENTENCES, size=ends[-1])))
    roles = pa.array(["user", "assistant"]).take(pa.array(place % 2))
    messages = pa.StructArray.from_arrays([roles, content], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), messages)


def _named(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{prefix}{n:02}" for n in range(numbers.max() + 1)]).take(pa.array(numbers))
