"""Checks of the whole set, by hand."""

from typing import Any

import pandas as pd
import pytest

from rlhf.data import report as checks
from tests.data.frames import clean, user


def compared(*judgements: tuple[str, str, str] | tuple[str, str, str, bool]) -> pd.DataFrame:
    """Comparisons (chosen, rejected, annotator, tie)."""
    names = ("chosen", "rejected", "annotator", "tie")
    return clean("comparisons", *(dict(zip(names, judgement, strict=False)) for judgement in judgements))


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    return checks.pairs({"comparisons": rows})


def test_duplicates() -> None:
    rows = compared(("a", "b", "ann"), ("a", "b", "ann"), ("a", "b", "bob"), ("b", "a", "ann"))
    assert checks.duplicates("comparisons", rows) == {"rows": 1, "prompts": 3}
    ranked = clean("rankings", *[{"responses": ["a", "b"], "ranks": ranks} for ranks in ([1, 2], [2, 1], [1, 2])])
    assert checks.duplicates("rankings", ranked) == {"rows": 1, "prompts": 2}
    assert checks.duplicates("texts", clean("texts", *[{"text": "x"}] * 3)) == {"rows": 2}
    prompts = clean("prompts", {"prompt": user("x")}, {"prompt": user("x "), "kind": "plain"}, {"prompt": user("y")})
    assert checks.duplicates("prompts", prompts) == {"rows": 1, "prompts": 1}


def test_pairs_of_a_ranking() -> None:
    rows = clean("rankings", {"responses": ["c", "a", "b"], "ranks": [1, 2, 2], "annotator": "ann"})
    found = checks.pairs({"rankings": rows})[["low", "high", "preferred", "annotator"]].itertuples(
        index=False, name=None
    )
    assert sorted(found) == [("a", "b", 0, "ann"), ("a", "c", -1, "ann"), ("b", "c", -1, "ann")]


def test_contradictions() -> None:
    rows = compared(
        ("a", "b", "ann"),
        ("b", "a", "ann"),  # ann against herself
        ("c", "d", "ann"),
        ("d", "c", "bob"),  # ann against bob
        ("e", "f", "ann"),
        ("f", "e", "ann", True),  # a tie contradicts nobody
        ("g", "h", ""),
        ("h", "g", ""),  # two people whom nobody named
    )
    assert checks.contradictions(judged(rows)) == {"pairs": 4, "by_one_annotator": 1, "across_annotators": 3}


@pytest.mark.parametrize(
    ("judgements", "cycles"),
    [
        ([("a", "b", "1"), ("b", "c", "1"), ("c", "a", "1")], 1),
        ([("a", "b", "1"), ("b", "c", "1"), ("a", "c", "1")], 0),
        ([("a", "b", "1"), ("b", "c", "1"), ("c", "a", "1"), ("a", "c", "2"), ("a", "c", "3")], 0),  # outvoted
        ([("a", "b", "1"), ("b", "c", "1"), ("c", "a", "1", True)], 0),
        ([("a", "b", "1"), ("b", "c", "1"), ("c", "d", "1"), ("d", "a", "1")], 1),
        ([("a", "b", "1"), ("b", "a", "2")], 0),  # a contradiction, not a circle
    ],
)
def test_cycles(judgements: list[Any], cycles: int) -> None:
    assert checks.cycles(judged(compared(*judgements))) == {"prompts": 1, "with_a_cycle": cycles}


def test_cycles_are_sought_within_a_prompt() -> None:
    edges = [("a", "b", "Why?"), ("b", "c", "Who?"), ("c", "a", "When?")]
    rows = clean("comparisons", *({"chosen": x, "rejected": y, "prompt": user(prompt)} for x, y, prompt in edges))
    assert checks.cycles(judged(rows)) == {"prompts": 3, "with_a_cycle": 0}


def test_overlap() -> None:
    prompts = clean("prompts", *({"prompt": user(text)} for text in ("Why is it?", "why is it", "Who?", "Where?")))
    prompts = prompts.drop(columns="row")  # of the table that is made of all others
    prompts["split"] = ["train", "test", "test", "validation"]
    assert checks.overlap({"prompts": prompts}) == {
        "prompts": 0,
        "same_words": 1,
        "conversations": 0,
        "test_prompts": 2,
    }
    prompts["prompt_hash"] = prompts["prompt_hash"].iloc[[0, 0, 2, 3]].to_numpy()
    assert checks.overlap({"prompts": prompts})["prompts"] == 1


def test_a_conversation_is_in_one_split() -> None:
    rows = [{"row": place, "source": source} for source in ("a", "b") for place in (1, 1, 2)]
    asked = clean("demonstrations", *rows)
    splits = [("test", "train", "train"), ("test", "test", "test")]
    tables = {
        "prompts": clean("prompts", {}),
        "demonstrations": asked.assign(split=[split for some in splits for split in some]),
    }
    assert checks.overlap(tables)["conversations"] == 1, "record 1 of source a; those of source b are others"


def test_length_bias() -> None:
    rows = compared(("long", "s", ""), ("s", "long", ""), ("same", "even", ""), ("longer", "s", "", True))
    ranked = clean(
        "rankings",
        {"responses": ["aaa", "b", "cc"], "ranks": [3, 2, 1]},
        {"responses": ["aaa", "b"], "ranks": [1, 2]},
        {"responses": ["aaa", "b"], "ranks": [1, 1]},
    )
    assert checks.length_bias({"comparisons": rows, "rankings": ranked}) == {
        "comparisons": {"better_is_longer": pytest.approx(1 / 3), "n": 3},
        "rankings": {"better_is_longer": 0.5, "n": 2},
    }
    assert checks.length_bias({"comparisons": rows[rows["tie"].astype(bool)]})["comparisons"] == {
        "better_is_longer": None,
        "n": 0,
    }


def test_agreement_sees_a_pair_whatever_its_order_and_a_person_once() -> None:
    """Units ab {low, low}, cd {low, high}, ef {high, high}: alpha as in test_agreement's example by hand."""
    rows = compared(
        *(("a", "b", "ann"), ("a", "b", "ann"), ("a", "b", "bob")),
        *(("c", "d", "ann"), ("d", "c", "bob")),
        *(("f", "e", "ann"), ("f", "e", "bob")),
    )
    found = checks.agreement({"comparisons": rows}, judged(rows))["comparisons"]
    assert found == {"alpha": pytest.approx(1 - (2 / 6) / (18 / 30)), "judgements": 6, "metric": "nominal"}


def test_agreement_of_rankings_needs_the_same_answers() -> None:
    ranked = clean(
        "rankings",
        {"responses": ["a", "b", "c"], "ranks": [1, 2, 3], "annotator": "ann"},
        {"responses": ["c", "a", "b"], "ranks": [3, 1, 2], "annotator": "bob"},
        {"responses": ["a", "b"], "ranks": [2, 1], "annotator": "bob"},
    )
    pairs = checks.pairs({"rankings": ranked})
    assert checks.agreement({"rankings": ranked}, pairs)["rankings"] == {
        "alpha": 1.0,
        "judgements": 6,
        "metric": "ordinal",
    }


def test_balance() -> None:
    thumbs = clean("thumbs", {"thumb": True}, {"thumb": True}, {"thumb": False}, split="validation")
    ratings = clean("ratings", {"rating": 4}, {"rating": 4})
    assert checks.balance({"thumbs": thumbs, "ratings": ratings}) == {
        "thumbs": {"split": {"train": 0, "validation": 3, "test": 0}, "thumb": {"False": 1, "True": 2}},
        "ratings": {"split": {"train": 2, "validation": 0, "test": 0}, "rating": {"4": 2}},
    }


def test_a_whole_report_of_little() -> None:
    prompts = clean("prompts", {})
    found = checks.report({"prompts": prompts, "texts": clean("texts", {"text": "x"})})
    assert found["contradictions"] == {"pairs": 0, "by_one_annotator": 0, "across_annotators": 0}
    assert found["cycles"] == {"prompts": 0, "with_a_cycle": 0}
    assert found["agreement"] == found["length_bias"] == {}
    assert found["overlap"]["test_prompts"] == 0
