"""How much of a test prompt models may have read while they were trained.

    seen(prompt) = share of its words that lie in a run of 13 words which some training text holds as well

Runs of 13 are those of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) and lm-evaluation-harness, to which one
run is enough. Prompts of one template share a run or two and still ask for different things, so the share is kept, as
Llama 2 does (Touvron et al. 2023, arXiv:2307.09288, A.6: dirty from 0.8 on). A prompt of fewer than 13 words is seen,
1, where a training text is the same words, else not, 0.

Words are those of rlhf/data/words.py. A prompt is the words of all its messages in a row.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rlhf.data.words import LARGE_TEXT, cleaned, joined, split

RUN = 13  # words
_AT_ONCE = 50_000  # texts; bounds memory
_TEXTS = ("response", "chosen", "rejected", "responses", "text")  # columns; people judge the same answers often
_WEIGHTS = np.random.default_rng(0).integers(2**63, size=RUN, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def seen(tables: Mapping[str, pd.DataFrame]) -> NDArray[np.float64]:
    """(rows,) of table `prompts`: the share of each test prompt's words that training texts hold; 0 in other splits.

    Clean tables with the column `split`. Training texts are all prompts, answers and plain texts outside the test
    split.
    """
    prompts = tables["prompts"]
    test = (prompts["split"] == "test").to_numpy()
    shares = np.zeros(len(prompts))
    if test.any():
        shares[test] = seen_shares(joined(prompts["prompt"][test]), _trained_on(tables))
    return shares


def seen_shares(prompts: pa.Array, trained_on: Iterable[pa.Array]) -> NDArray[np.float64]:
    """(prompts,) shares of words, of texts against all texts of the arrays in `trained_on`."""
    clean = cleaned(prompts)
    words, owners = split(clean)
    vocabulary = pc.unique(words)
    starts, hashes = _runs(_codes(words, vocabulary), owners)
    known = pd.Index(np.unique(hashes))
    short = pc.filter(clean, pa.array(np.bincount(owners, minlength=len(clean)) < RUN))
    met, same = np.zeros(len(known), dtype=bool), np.zeros(len(short), dtype=bool)
    for texts in trained_on:
        for start in range(0, len(texts), _AT_ONCE):
            some = cleaned(texts.slice(start, _AT_ONCE))
            same |= pc.is_in(short, value_set=some).to_numpy(zero_copy_only=False)
            theirs, whose = split(some)
            places = known.get_indexer(pd.Index(_runs(_codes(theirs, vocabulary), whose)[1]))
            met[places[places >= 0]] = True
    covered = np.zeros(len(words), dtype=bool)
    for start in starts[met[known.get_indexer(pd.Index(hashes))]]:
        covered[start : start + RUN] = True
    lengths = np.bincount(owners, minlength=len(clean))
    shares = np.bincount(owners, weights=covered, minlength=len(clean)) / np.maximum(lengths, 1)
    shares[lengths < RUN] = same
    return shares


def _trained_on(tables: Mapping[str, pd.DataFrame]) -> Iterator[pa.Array]:
    for table, rows in tables.items():
        kept = rows["split"] != "test"
        if table == "prompts":
            yield joined(rows["prompt"][kept])
        for column in (name for name in _TEXTS if name in rows):
            texts = rows[column][kept]
            yield pc.unique(pa.array(texts.explode() if column == "responses" else texts, LARGE_TEXT))


def _codes(words: pa.Array, vocabulary: pa.Array) -> NDArray[np.int64]:
    """The place of each word in the vocabulary, -1 where it is not in it."""
    return pc.fill_null(pc.index_in(words, value_set=vocabulary), -1).to_numpy()


def _runs(codes: NDArray[np.int64], owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Where each run of known words within one text starts, and its hash of 64 bits."""
    unknown = np.concatenate([[0], np.cumsum(codes < 0)])
    within = (owners[RUN - 1 :] == owners[: -RUN + 1]) & (unknown[RUN:] == unknown[:-RUN])
    starts = np.flatnonzero(within)
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for place, weight in enumerate(_WEIGHTS):
        hashes += codes[starts + place].astype(np.uint64) * weight
    return starts, hashes
