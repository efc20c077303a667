"""Every kind of feedback as rankings, which the reward model and DPO train on, and as thumbs, which KTO trains on.

comparison   a ranking of two; a tie gives both rank 1.
rating,      of answers to one prompt: by score, one ranking for each annotator who judged two of them or more. The
thumb        judgements of the others are pooled by prompt and group, and an answer's score is their mean. People use
             scales differently, so a person's own order comes first and pooling is what is left. Judgements by
             different criteria are never mixed.
ranking      as it is.

Rankings of more than 9 answers are dealt into n: of the answers sorted by rank, the i-th goes to ranking i modulo n, so
that each spans best to worst. What cannot be used is counted by reason.

To thumbs, a ranking is one for each answer: up when it is better than more of the others than it is worse than, down
when it is the other way round. An answer in the very middle is left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
import pandas as pd

from rlhf.data.prompts import HASH, with_hashes
from rlhf.data.tables import COLUMNS, DEFAULTS, MAX_ANSWERS

_DIGITS = 9  # means that differ by rounding only are equal


def to_rankings(tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rankings from clean tables (those that are no feedback are passed over), and counts of what was left out.

    The frame has the columns of table `rankings`, and `split` when the tables have it. Annotator, group and criterion
    are kept; a pooled ranking has no annotator. A person's ranking comes from one table at a time: ratings and rankings
    of the same answers disagree too often to be mixed (Bansal et al. 2023, arXiv:2308.15812).
    """
    left_out: Counter[str] = Counter()
    parts = []
    if "rankings" in tables:
        parts.append(tables["rankings"])
    if "comparisons" in tables:
        parts.append(_of_comparisons(tables["comparisons"], left_out))
    if "ratings" in tables:
        ratings = tables["ratings"]
        parts.append(_of_scores(ratings, (ratings["rating"] - 1) / (ratings["scale"] - 1), "rating", left_out))
    if "thumbs" in tables:
        parts.append(_of_scores(tables["thumbs"], tables["thumbs"]["thumb"].astype(float), "thumb", left_out))
    columns = [*COLUMNS["rankings"], "split"]
    if not parts:
        return pd.DataFrame(columns=columns), dict(left_out)
    rankings = pd.concat(parts, ignore_index=True)
    return rankings[[column for column in columns if column in rankings]], dict(left_out)


def to_thumbs(rankings: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Thumbs from rankings (columns of table `thumbs`, and `split`), and counts of what was left out."""
    columns = [*COLUMNS["thumbs"], "split"]
    each = rankings.assign(place=rankings["ranks"].map(_lead)).explode(["responses", "place"])
    undecided = each["place"] == 0
    left_out = {"answer in the middle of its ranking": int(undecided.sum())} if undecided.any() else {}
    each = each[~undecided].rename(columns={"responses": "response"})
    names = each["id"].astype(str) + " " + each.groupby("id").cumcount().astype(str)
    each = each.assign(
        thumb=(each["place"] > 0).astype(bool),
        id=names.map(lambda name: sha256(f"thumb of {name}".encode()).hexdigest()[:16]),
    )
    return each[[column for column in columns if column in each]].reset_index(drop=True), left_out


def to_polls(beliefs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Beliefs with the votes of all groups pooled, one row a prompt, of group ""; and counts of what was left out.

    Votes on different lists of statements cannot be added: the list with most votes stands.
    """
    rows = with_hashes(beliefs).assign(statements=beliefs["statements"].map(tuple))
    rest = {column: (column, "first") for column in ("id", "prompt", "source", "split") if column in rows}
    lists = {"votes": ("votes", lambda votes: np.sum(list(votes), axis=0)), "rows": ("votes", "size")}
    pooled = rows.groupby([HASH, "statements"], sort=False).agg(**lists, **rest).reset_index()
    most = pooled["votes"].map(np.sum).sort_values(ascending=False, kind="stable").index
    kept = pooled.loc[most].drop_duplicates(HASH).sort_index()
    other = len(rows) - int(kept["rows"].sum())
    left_out = {"beliefs in other statements than most votes on the prompt": other} if other else {}
    return kept.assign(group="", statements=kept["statements"].map(list)).reset_index(drop=True), left_out


def _lead(ranks: Sequence[int]) -> list[int]:
    """For each answer, how many more of the others it beats than beat it."""
    order = np.sign(np.subtract.outer(np.asarray(ranks), np.asarray(ranks)))
    return [int(place) for place in -order.sum(axis=1)]


def _of_comparisons(rows: pd.DataFrame, left_out: Counter[str]) -> pd.DataFrame:
    weighted = int((rows["strength"] != 1.0).sum())
    if weighted:
        left_out["strength of a comparison"] += weighted  # rankings have an order only
    second = np.where(rows["tie"].astype(bool), 1, 2)
    return rows.assign(
        responses=pd.Series(
            [list(pair) for pair in zip(rows["chosen"], rows["rejected"], strict=True)], rows.index, object
        ),
        ranks=pd.Series([[1, int(rank)] for rank in second], rows.index, object),
    )


def _of_scores(rows: pd.DataFrame, scores: pd.Series, kind: str, left_out: Counter[str]) -> pd.DataFrame:
    """Rankings of answers that were judged one by one; `scores` lie in 0..1, higher is better."""
    rows = with_hashes(rows).assign(score=scores)
    key = [HASH, "group", "annotator", "criterion"]
    own = (rows["annotator"] != "") & (rows.groupby(key)["response"].transform("nunique") > 1)
    rest = rows[~own].assign(annotator="")
    pooled = rest.groupby(key)["response"].transform("nunique") > 1
    if not pooled.all():
        left_out[f"{kind} without a partner"] += int((~pooled).sum())
    rankings = _ranked(pd.concat([rows[own], rest[pooled]]), key, kind)
    if kind == "thumb":  # two thumbs up do not say that the answers are equally good
        alike = rankings["ranks"].map(lambda ranks: len(set(ranks)) == 1).astype(bool)
        if alike.any():
            left_out["thumb like those of all its partners"] += int(rankings.loc[alike, "judgements"].sum())
        rankings = rankings[~alike]
    return rankings


def _ranked(rows: pd.DataFrame, key: list[str], kind: str) -> pd.DataFrame:
    """One ranking for each value of `key`, in the order of the rows; an answer's score is its mean."""
    rest = {column: (column, "first") for column in ("prompt", "source", "split") if column in rows}
    means = rows.groupby([*key, "response"], sort=False).agg(score=("score", "mean"), times=("score", "size"), **rest)
    means = means.assign(score=means["score"].round(_DIGITS)).reset_index()
    means = means.sort_values("score", ascending=False, kind="stable")
    means["part"] = means.groupby(key, sort=False).cumcount() % _parts(means.groupby(key)["response"].transform("size"))
    means = means.sort_index()
    key = [*key[:-1], "part", key[-1]]
    means["rank"] = means.groupby(key)["score"].rank(method="min", ascending=False).astype(int)
    rest = {column: (column, "first") for column in rest}
    lists = {"responses": ("response", list), "ranks": ("rank", list), "judgements": ("times", "sum")}
    rankings = means.groupby(key, sort=False).agg(**lists, **rest).reset_index()
    names = rankings[key].astype(str).agg(" ".join, axis=1) if len(rankings) else pd.Series(dtype=object)
    names = names.str.removesuffix(f" {DEFAULTS['criterion']}")  # as in `add_ids`
    return rankings.assign(id=names.map(lambda name: sha256(f"{kind} {name}".encode()).hexdigest()[:16]))


def _parts(answers: pd.Series) -> pd.Series:
    """Into how many rankings so many answers are dealt."""
    return -(-answers // MAX_ANSWERS)
