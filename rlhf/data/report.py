"""Checks of the whole set: what no single row shows. Nothing here removes a row; the numbers are for people to judge.

Every function takes clean tables with the columns `prompt_hash` and `split`, by name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlhf.data.agreement import Metric, krippendorff_alpha
from rlhf.data.prompts import HASH
from rlhf.data.splits import SPLITS
from rlhf.data.tables import of_each_object
from rlhf.data.words import cleaned, joined

Tables = Mapping[str, pd.DataFrame]
Report = dict[str, Any]

_SIGNED = [HASH, "criterion", "annotator", "source"]
_PAIR = ["table", *_SIGNED, "one", "other", "preferred"]
_LISTS = {"responses", "ranks", "statements", "votes"}

TEXTS = ("prompt", "response", "chosen", "rejected", "responses", "statements", "text")
UNSEEN = {
    "control": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]",  # among them the escape that opens a terminal's commands
    "direction": "[\u202a-\u202e\u2066-\u2069]",  # of writing: text that reads in another order than it stands
    "invisible": "[\u00ad\u200b\u2060\ufeff\U000e0000-\U000e007f]",
}

# What makes two rows of a table the same row, besides their prompt.
CONTENT = {
    "demonstrations": ["response"],
    "comparisons": ["chosen", "rejected", "tie", "strength", "annotator", "criterion"],
    "ratings": ["response", "rating", "scale", "annotator", "criterion"],
    "thumbs": ["response", "thumb", "annotator", "criterion"],
    "rankings": ["responses", "ranks", "annotator", "criterion"],
    "beliefs": ["statements", "votes", "group"],
    "prompts": [],
    "texts": ["text"],
}

# Columns of which every value is counted.
CLASSES = {
    "comparisons": ["tie"],
    "ratings": ["rating"],
    "thumbs": ["thumb"],
    "demonstrations": ["use_case"],
    "prompts": ["use_case", "kind"],
}


def report(tables: Tables) -> Report:
    """All checks."""
    judged = pairs(tables)
    return {
        "characters": {table: characters(rows) for table, rows in tables.items()},
        "duplicates": {table: duplicates(table, rows) for table, rows in tables.items()},
        "contradictions": contradictions(judged),
        "cycles": cycles(judged),
        "overlap": overlap(tables),
        "length_bias": length_bias(tables),
        "agreement": agreement(tables, judged),
        "balance": balance(tables),
    }


def characters(rows: pd.DataFrame) -> dict[str, int]:
    """Rows of a table whose texts hold characters that do not show, or that show something else than a model reads."""
    found: dict[str, set[Any]] = {kind: set() for kind in UNSEEN}
    for values in (rows[column] for column in TEXTS if column in rows):
        some = values[_holds(values, "|".join(UNSEEN.values()))]  # few, and rarely any
        for kind, pattern in UNSEEN.items():
            found[kind] |= set(some.index[_holds(some, pattern)])
    return {kind: len(places) for kind, places in found.items()}


def duplicates(table: str, rows: pd.DataFrame) -> Report:
    """Rows that repeat an earlier one (same annotator, too), and rows whose prompt an earlier one has."""
    content = pd.DataFrame({column: _comparable(rows[column]) for column in CONTENT[table]}, index=rows.index)
    if HASH not in rows:
        return {"rows": int(content.duplicated().sum())}
    repeated = content.assign(prompt=rows[HASH]).duplicated()
    return {"rows": int(repeated.sum()), "prompts": int(rows[HASH].duplicated().sum())}


def pairs(tables: Tables) -> pd.DataFrame:
    """Every two answers that a comparison or a ranking judges: table, prompt_hash, criterion, annotator, source, `low`
    and `high` (the answers in the order of their text, as categories that both columns share), `preferred` (1: low is
    better, -1: high is better, 0: tie), and numbers from 0: `asked`, of prompt and criterion, and `unit`, of these and
    of the two answers."""
    kinds = {"comparisons": _compared, "rankings": _ranked}
    found = [pairs_of(tables[table]).assign(table=table) for table, pairs_of in kinds.items() if table in tables]
    judged = pd.concat(found or [pd.DataFrame(columns=_PAIR)], ignore_index=True)
    codes, answers = pd.factorize(pd.concat([judged.pop("one"), judged.pop("other")]), sort=True)
    one, other = codes.reshape(2, -1)
    asked = judged.groupby([HASH, "criterion"], sort=False).ngroup()
    two = pd.DataFrame({"asked": asked, "low": np.minimum(one, other), "high": np.maximum(one, other)})
    return judged.assign(
        low=pd.Categorical.from_codes(two["low"], answers),
        high=pd.Categorical.from_codes(two["high"], answers),
        preferred=judged["preferred"].astype(int) * np.where(one < other, 1, -1),
        asked=asked,
        unit=two.groupby([*two], sort=False).ngroup(),
    )


def contradictions(judged: pd.DataFrame) -> Report:
    """Pairs of answers that were judged both ways by one criterion: by one annotator, and by different ones; unknown
    ones do not count as one person."""
    annotator, names = pd.factorize(judged["annotator"])
    own = judged["annotator"] != ""
    return {
        "pairs": int(judged["unit"].nunique()),
        "by_one_annotator": _both_ways((judged["unit"] * len(names) + annotator)[own], judged["preferred"][own]),
        "across_annotators": _both_ways(judged["unit"], judged["preferred"]),
    }


def cycles(judged: pd.DataFrame) -> Report:
    """Prompts among whose answers the majority, by one criterion, prefers in a circle (A to B, B to C, C to A)."""
    votes = np.bincount(judged["unit"], judged["preferred"])
    edges = judged[~judged["unit"].duplicated()]
    edges = edges[votes[edges["unit"]] != 0]
    among = edges["asked"].to_numpy() * len(edges["low"].cat.categories)  # the same answer to another is another
    codes, answers = pd.factorize(np.concatenate([edges["low"].cat.codes + among, edges["high"].cat.codes + among]))
    low, high = codes.reshape(2, -1)
    is_low = votes[edges["unit"]] > 0
    better, worse = np.where(is_low, low, high), np.where(is_low, high, low)
    left, before = np.arange(len(edges)), -1
    while len(left) != before:  # what nothing beats is in no circle
        before, beaten = len(left), np.zeros(len(answers), dtype=bool)
        beaten[worse[left]] = True
        left = left[beaten[better[left]]]
    return {"prompts": int(judged[HASH].nunique()), "with_a_cycle": int(edges[HASH].iloc[left].nunique())}


def overlap(tables: Tables) -> Report:
    """Prompts of the test split that another split has: the same prompt (none, by construction), and the same words
    (a prompt that differs in case and punctuation only is another prompt to the splitter); and conversations that
    are in both."""
    prompts = tables["prompts"]
    words = cleaned(joined(prompts["prompt"])).dictionary_encode().indices.to_numpy()
    elsewhere, test = prompts["split"] != "test", prompts["split"] == "test"
    return {
        "prompts": int(prompts.loc[test, HASH].isin(prompts.loc[elsewhere, HASH]).sum()),
        "same_words": int(np.isin(words[test], words[elsewhere]).sum()),
        "conversations": sum(map(_shared_records, tables.values())),
        "test_prompts": int(test.sum()),
    }


def length_bias(tables: Tables) -> Report:
    """Share of judgements whose better answer has more characters: chosen against rejected, best against worst."""
    found: Report = {}
    if "comparisons" in tables:
        rows = tables["comparisons"]
        rows = rows[~rows["tie"].astype(bool)]
        found["comparisons"] = _share(rows["chosen"].str.len() > rows["rejected"].str.len())
    if "rankings" in tables:
        rows = tables["rankings"]
        rows = rows[rows["ranks"].map(lambda ranks: len(set(ranks)) > 1).astype(bool)]
        longer = [
            len(responses[np.argmin(ranks)]) > len(responses[np.argmax(ranks)])
            for responses, ranks in zip(rows["responses"], rows["ranks"], strict=True)
        ]
        found["rankings"] = _share(pd.Series(longer, dtype=bool))
    return found


def agreement(tables: Tables, judged: pd.DataFrame) -> Report:
    """Krippendorff's alpha of each kind of feedback, of which `judged` are the pairs. An annotator who judged the same
    thing twice counts once."""
    found: Report = {}
    if "comparisons" in tables:
        found["comparisons"] = _alpha(judged[judged["table"] == "comparisons"], ["unit"], "preferred", "nominal")
    if "thumbs" in tables:
        found["thumbs"] = _alpha(tables["thumbs"], [HASH, "criterion", "response"], "thumb", "nominal")
    if "ratings" in tables:
        found["ratings"] = _alpha(tables["ratings"], [HASH, "criterion", "response", "scale"], "rating", "ordinal")
    if "rankings" in tables:
        rows = tables["rankings"].assign(
            answers=tables["rankings"]["responses"].map(lambda texts: tuple(sorted(texts)))
        )
        found["rankings"] = _alpha(
            rows.explode(["responses", "ranks"]), [HASH, "criterion", "answers", "responses"], "ranks", "ordinal"
        )
    return found


def balance(tables: Tables) -> Report:
    """How the values of each table are distributed, and its rows over the splits."""
    found = {
        table: {"split": {split: int((rows["split"] == split).sum()) for split in SPLITS}}
        | {name: _counted(rows[name]) for name in CLASSES.get(table, ())}
        for table, rows in tables.items()
    }
    if "rankings" in tables:
        found["rankings"]["answers"] = _counted(tables["rankings"]["responses"].map(len))
    return found


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    preferred = np.where(rows["tie"].astype(bool), 0, 1)
    return rows[_SIGNED].assign(one=rows["chosen"], other=rows["rejected"], preferred=preferred)


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    answers = rows[[*_SIGNED, "responses", "ranks"]].reset_index(names="row")
    answers = answers.explode(["responses", "ranks"], ignore_index=True)
    both = answers.merge(answers[["row", "responses", "ranks"]], on="row", suffixes=("", "_other"))
    both = both[both["responses"] < both["responses_other"]]
    preferred = np.sign((both["ranks_other"] - both["ranks"]).astype(int))
    return both[_SIGNED].assign(one=both["responses"], other=both["responses_other"], preferred=preferred)


def _holds(values: pd.Series, pattern: str) -> pd.Series:
    """Whether the pattern is found in a text of each row's value."""
    if values.name == "prompt":
        holds = re.compile(pattern).search
        return of_each_object(lambda prompt: any(holds(part["content"]) for part in prompt), values).astype(bool)
    return (values.map("\n".join) if values.name in _LISTS else values).astype("str").str.contains(pattern)


def _both_ways(units: pd.Series, preferred: pd.Series) -> int:
    """How many of the units have judgements of either sign."""
    codes, names = pd.factorize(units)
    up, down = (np.bincount(codes[sign * preferred > 0], minlength=len(names)) > 0 for sign in (1, -1))
    return int((up & down).sum())


def _alpha(rows: pd.DataFrame, unit: list[str], value: str, metric: Metric) -> Report:
    units = rows.groupby(unit, sort=False).ngroup()
    repeated = pd.DataFrame({"unit": units, "annotator": rows["annotator"]}).duplicated()
    once = (rows["annotator"] == "") | ~repeated
    alpha, judgements = krippendorff_alpha(units[once], rows[value][once], metric)
    return {"alpha": alpha, "judgements": judgements, "metric": metric}


def _shared_records(rows: pd.DataFrame) -> int:
    """Records of a source, each a conversation or a document, of whose rows some are in the test split and others not.
    The table of prompts, which is made from all others, does not say where a row was read."""
    if "row" not in rows:
        return 0
    test = (rows["split"] == "test").groupby([rows["source"], rows["row"]], sort=False)
    return int((test.any() & ~test.all()).sum())


def _share(longer: pd.Series) -> Report:
    return {"better_is_longer": float(longer.mean()) if len(longer) else None, "n": len(longer)}


def _counted(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}


def _comparable(values: pd.Series) -> pd.Series:
    """A column whose lists, if it holds any, are tuples."""
    return values.map(tuple) if values.name in _LISTS else values
