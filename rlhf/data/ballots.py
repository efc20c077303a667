"""Judgements as screening looks at them: what was judged, by whom, and what was said; and the pairs that they order."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from rlhf.data.conversions import to_rankings
from rlhf.data.ids import lot
from rlhf.data.prompts import HASH, with_hashes
from rlhf.data.report import pairs
from rlhf.data.tables import FEEDBACK
from rlhf.data.words import LARGE_TEXT, cleaned, joined, split

Tables = Mapping[str, pd.DataFrame]

_SIGNED = ["annotator", "source", "criterion"]


@dataclass(frozen=True)
class Pairs:
    """N pairs of answers of which one was found better, in C sittings: what somebody said about one prompt. Pairs of
    one sitting are not independent."""

    better: NDArray[np.float64]  # (N,) 1: the first, -1: the second
    words: sparse.csr_array  # (N, F) 1, -1: the first, the second alone holds words of one or two that stand in `names`
    longer: NDArray[np.float64]  # (N,) log-ratio of lengths in characters
    two: NDArray[np.int64]  # (N,) which two answers to which prompt, numbers from 0
    sitting: NDArray[np.int64]  # (N,) numbers from 0
    sittings: pd.DataFrame  # (C,) annotator, source
    asked: sparse.csr_array  # (C, F) 1 where the prompt holds the words
    names: NDArray[np.object_]  # (F,)


def sampled(tables: Tables, judgements: int) -> dict[str, pd.DataFrame]:
    """The tables of feedback, with hashes; of more rows than `judgements`, those of prompts that are drawn by lot, so
    that what was said about a prompt stays together, and stays when others leave."""
    kept = {name: tables[name] for name in FEEDBACK if name in tables}
    total = sum(map(len, kept.values()))
    if total <= judgements:
        return kept
    limit = f"{int(16**8 * judgements / total):08x}"
    asked = pd.concat([rows[HASH] for rows in kept.values()]).unique()
    drawn = {key for key in asked if lot(key, "screen") < limit}
    return {name: rows[rows[HASH].isin(drawn)] for name, rows in kept.items()}


def ballots(tables: Tables) -> pd.DataFrame:
    """Every judgement, a row each: table, annotator, source, criterion; `item`, what was judged, and `near`, the same
    but for case and punctuation; `said`, the whole answer; `habit`, what somebody always says who does not
    look."""
    parts = [_ballots_of(name, rows) for name, rows in tables.items() if len(rows)]
    columns = ["table", *_SIGNED, "item", "near", "said", "habit"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def ordered_pairs(tables: Tables, support: int) -> Pairs:
    """The pairs of tables of one criterion. Words of which fewer than `support` texts hold one are left out."""
    rankings = [tables["rankings"]] if "rankings" in tables else []
    graded = {name: tables[name] for name in ("ratings", "thumbs") if name in tables and len(tables[name])}
    if graded:
        found = to_rankings(graded)[0]
        rankings.append(with_hashes(found[found["annotator"] != ""]))
    whole = {"rankings": pd.concat(rankings, ignore_index=True)} if rankings else {}
    judged = pairs({name: rows for name, rows in tables.items() if name == "comparisons"} | whole)
    judged = judged[judged["preferred"] != 0].reset_index(drop=True)
    by = [HASH, "annotator", "source"]
    sitting = np.asarray(judged.groupby(by, sort=False).ngroup(), dtype=np.int64)
    sittings = judged[~judged[by].duplicated()]
    prompts = {key: prompt for rows in tables.values() for key, prompt in zip(rows[HASH], rows["prompt"], strict=True)}
    code, places = pd.factorize(np.concatenate([judged["low"].cat.codes, judged["high"].cat.codes]))
    texts = judged["low"].cat.categories[places]
    low, high = code.reshape(2, -1)
    whole_texts = pa.concat_arrays([pa.array(list(texts), LARGE_TEXT), joined(prompts[key] for key in sittings[HASH])])
    held, names = _held(whole_texts, support)
    length = np.log1p(np.array([len(text) for text in texts], dtype=float))
    return Pairs(
        better=judged["preferred"].to_numpy(float),
        words=sparse.csr_array(held[low] - held[high]),
        longer=length[low] - length[high],
        two=judged["unit"].to_numpy(np.int64),
        sitting=sitting,
        sittings=sittings[["annotator", "source"]].reset_index(drop=True),
        asked=held[len(texts) :],
        names=names,
    )


def _held(texts: pa.Array, support: int) -> tuple[sparse.csr_array, NDArray[np.object_]]:
    """Which texts hold which words of one or two, (texts, F), of those that `support` texts hold, and these."""
    words, owners = split(cleaned(texts))
    coded = words.dictionary_encode()
    codes, names = coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_numpy(zero_copy_only=False)
    often = np.bincount(codes, minlength=len(names)) >= support
    follows = np.flatnonzero((owners[1:] == owners[:-1]) & often[codes[1:]] & often[codes[:-1]])
    which, two = pd.factorize(codes[follows] * len(names) + codes[follows + 1])
    cells = np.concatenate([owners, owners[follows]]), np.concatenate([codes, len(names) + which])
    held = sparse.csr_array((np.ones(len(cells[0])), cells), shape=(len(texts), len(names) + len(two)))
    held.data[:] = 1.0  # once or more
    kept = held.sum(axis=0) >= support
    first, second = np.divmod(two, len(names))
    return held[:, np.flatnonzero(kept)], np.concatenate([names, names[first] + " " + names[second]])[kept]


def _ballots_of(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    if table == "comparisons":
        tie = rows["tie"].astype(bool)
        said = [(None if tied else chosen) for tied, chosen in zip(tie, rows["chosen"], strict=True)]
        texts = [tuple(sorted(both)) for both in zip(rows["chosen"], rows["rejected"], strict=True)]
        habit = np.where(tie, "a tie", "no tie")
    elif table == "rankings":
        said = [
            tuple(sorted(zip(r, map(int, k), strict=True)))
            for r, k in zip(rows["responses"], rows["ranks"], strict=True)
        ]
        texts = [tuple(sorted(responses)) for responses in rows["responses"]]
        habit = np.array([_order(list(map(int, ranks))) for ranks in rows["ranks"]], dtype=object)
    elif table == "ratings":
        said = list(rows["rating"])
        texts = [(text, str(scale)) for text, scale in zip(rows["response"], rows["scale"], strict=True)]
        place = (rows["rating"] - 1) / (rows["scale"] - 1)
        habit = np.array([f"{share:.0%} of the scale" for share in place], dtype=object)
    else:
        said = list(rows["thumb"])
        texts = [(text,) for text in rows["response"]]
        habit = np.where(rows["thumb"], "thumb up", "thumb down")
    shown = cleaned(joined(rows["prompt"])).to_numpy(zero_copy_only=False)
    words = cleaned(pa.array([" / ".join(some) for some in texts], LARGE_TEXT)).to_numpy(zero_copy_only=False)
    item = pd.Series(list(zip(rows[HASH], texts, strict=True)), dtype=object)
    signed = rows[_SIGNED].reset_index(drop=True)
    return signed.assign(
        table=table, item=item, near=shown + "\n" + words, said=pd.Series(said, dtype=object), habit=habit
    )


def _order(ranks: list[int]) -> str:
    """How ranks stand to the order in which the answers were shown."""
    if len(set(ranks)) == 1:
        return "all equal"
    if ranks == sorted(ranks):
        return "the order shown"
    if ranks == sorted(ranks, reverse=True):
        return "the reverse of the order shown"
    return f"number {ranks.index(min(ranks)) + 1} first"
