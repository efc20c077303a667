"""Every kind of feedback as rankings, and rankings as thumbs, by hand; nothing is lost without being counted."""

from itertools import combinations
from random import Random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.conversions import to_polls, to_rankings, to_thumbs
from rlhf.data.prompts import HASH
from rlhf.data.report import pairs
from tests.data.frames import clean, user


def rating(response: str, value: int, annotator: str = "", **more: Any) -> dict[str, Any]:
    return {"response": response, "rating": value, "annotator": annotator, **more}


def thumb(response: str, value: bool, annotator: str = "", **more: Any) -> dict[str, Any]:
    return {"response": response, "thumb": value, "annotator": annotator, **more}


def listed(rankings: pd.DataFrame, *names: str) -> list[Any]:
    return [
        tuple(list(row[name]) if name in ("responses", "ranks", "statements", "votes") else row[name] for name in names)
        for _, row in rankings.iterrows()
    ]


def test_comparisons_and_rankings() -> None:
    rankings, left_out = to_rankings(
        {
            "comparisons": clean(
                "comparisons",
                {"chosen": "good", "rejected": "bad", "annotator": "ann", "group": "red"},
                {"chosen": "one", "rejected": "other", "tie": True, "strength": 2.0},
                split="test",
            ),
            "rankings": clean("rankings", {"responses": ["a", "b", "c"], "ranks": [1, 3, 1]}),
            "demonstrations": clean("demonstrations", {}),
        }
    )
    assert listed(rankings, "responses", "ranks", "annotator", "group", "split") == [
        (["a", "b", "c"], [1, 3, 1], "", "", "train"),
        (["good", "bad"], [1, 2], "ann", "red", "test"),
        (["one", "other"], [1, 1], "", "", "test"),
    ]
    assert left_out == {"strength of a comparison": 1}
    assert [message["content"] for message in rankings["prompt"][1]] == ["Why?"]


def test_one_annotators_ratings_are_a_ranking_of_their_own() -> None:
    rows = clean(
        "ratings",
        rating("a", 2, "ann"),
        rating("b", 5, "ann"),
        rating("a", 4, "ann"),
        rating("c", 3, "ann"),
        rating("a", 1, "bob"),
        rating("b", 1, "bob", prompt=user("Who?")),
    )
    rankings, left_out = to_rankings({"ratings": rows})
    assert listed(rankings, "responses", "ranks", "annotator") == [(["a", "b", "c"], [2, 1, 2], "ann")]
    assert left_out == {"rating without a partner": 2}


def test_ratings_of_different_annotators_are_pooled_by_group_and_mean() -> None:
    """Scores in 0..1: a (0 + 1) / 2, b 3/4, c 3/6. a and c tie."""
    rows = clean(
        "ratings",
        rating("a", 1, "ann", group="red"),
        rating("b", 4, "bob", group="red"),
        rating("a", 5, "eve", group="red"),
        rating("c", 4, "", group="red", scale=7),
        rating("b", 1, "joe", group="blue"),
    )
    rankings, left_out = to_rankings({"ratings": rows})
    assert listed(rankings, "responses", "ranks", "annotator", "group") == [(["a", "b", "c"], [2, 1, 2], "", "red")]
    assert left_out == {"rating without a partner": 1}


def test_means_that_differ_by_rounding_tie() -> None:
    """(3/6 + 5/6) / 2 and 4/6 are the same mean, and not the same float."""
    rows = clean("ratings", *(rating(text, value, scale=7) for text, value in (("a", 4), ("a", 6), ("b", 5))))
    assert listed(to_rankings({"ratings": rows})[0], "responses", "ranks") == [(["a", "b"], [1, 1])]


def test_thumbs() -> None:
    rows = clean(
        "thumbs",
        thumb("a", True, "ann"),
        thumb("b", False, "ann"),
        thumb("a", True, "bob"),
        thumb("b", True, "bob"),
        thumb("a", True, prompt=user("Who?")),
        thumb("b", False, "eve", prompt=user("Who?")),
        thumb("a", True, "ann", prompt=user("When?")),
    )
    rankings, left_out = to_rankings({"thumbs": rows})
    assert listed(rankings, "responses", "ranks", "annotator") == [
        (["a", "b"], [1, 2], "ann"),
        (["a", "b"], [1, 2], ""),
    ]
    assert left_out == {"thumb without a partner": 1, "thumb like those of all its partners": 2}


def test_judgements_by_different_criteria_are_never_mixed() -> None:
    ratings = clean(
        "ratings",
        *(rating("a", 1, "ann"), rating("b", 5, "ann")),
        *(rating("a", 5, "ann", criterion="helpful"), rating("b", 1, "ann", criterion="helpful")),
        *(rating("c", 2, "bob", criterion="helpful"), rating("d", 3, "eve", criterion="helpful")),
        *(rating("e", 2, "bob", criterion="harmless"), rating("f", 3, "joe", criterion="helpful")),
    )
    rankings, left_out = to_rankings({"ratings": ratings})
    assert listed(rankings, "responses", "ranks", "annotator", "criterion") == [
        (["a", "b"], [2, 1], "ann", "overall"),
        (["a", "b"], [1, 2], "ann", "helpful"),
        (["c", "d", "f"], [3, 1, 1], "", "helpful"),
    ]
    assert left_out == {"rating without a partner": 1}
    assert rankings["id"].is_unique
    assert list(to_thumbs(rankings)[0]["criterion"]) == ["overall"] * 2 + ["helpful"] * 5


def test_more_than_nine_answers_are_dealt_into_rankings_that_span_best_to_worst() -> None:
    rows = clean("ratings", *(rating(f"{n:02}", 1 + n % 7, "ann", scale=7) for n in range(19)))
    rankings, left_out = to_rankings({"ratings": rows})
    assert left_out == {}
    assert sorted(len(responses) for responses in rankings["responses"]) == [6, 6, 7]
    assert sorted(text for responses in rankings["responses"] for text in responses) == [f"{n:02}" for n in range(19)]
    for responses, ranks in zip(rankings["responses"], rankings["ranks"], strict=True):
        values = {text: 1 + int(text) % 7 for text in responses}
        assert ranks == [1 + sum(other > values[text] for other in values.values()) for text in responses]
        assert max(values.values()) - min(values.values()) >= 5
    assert rankings["id"].is_unique


def test_nothing_and_no_feedback() -> None:
    for tables in ({}, {"texts": clean("texts", {"text": "x"})}):
        rankings, left_out = to_rankings(tables)
        assert len(rankings) == 0
        assert left_out == {}
        assert {"id", "prompt", "responses", "ranks", "annotator", "group", "criterion", "source", "split"} == set(
            rankings.columns
        )


def test_only_lonely_rows() -> None:
    rankings, left_out = to_rankings(
        {"thumbs": clean("thumbs", thumb("a", True)), "ratings": clean("ratings", rating("a", 1))}
    )
    assert len(rankings) == 0
    assert left_out == {"thumb without a partner": 1, "rating without a partner": 1}


JUDGEMENTS = st.lists(
    st.tuples(
        st.sampled_from("pq"), st.sampled_from("abcdefghijkl"), st.integers(1, 5), st.sampled_from(["", "ann", "bob"])
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(JUDGEMENTS)
def test_every_rating_is_used_once_or_counted(judgements: list[tuple[str, str, int, str]]) -> None:
    rows = clean("ratings", *(rating(text, value, who, prompt=user(prompt)) for prompt, text, value, who in judgements))
    rankings, left_out = to_rankings({"ratings": rows})
    people = {
        (prompt, who): {t for p, t, _, w in judgements if (p, w) == (prompt, who)} for prompt, _, _, who in judgements
    }
    own = {key for key, texts in people.items() if key[1] and len(texts) > 1}
    expected = {(prompt, who, text) for prompt, who in own for text in people[prompt, who]}
    for prompt in "pq":
        rest = {text for p, text, _, who in judgements if p == prompt and (p, who) not in own}
        if len(rest) > 1:
            expected |= {(prompt, "", text) for text in rest}
    found = [
        (row["prompt"][0]["content"], row["annotator"], text)
        for _, row in rankings.iterrows()
        for text in row["responses"]
    ]
    assert sorted(found) == sorted(expected)
    used = sum((p, who) in own or (p, "", text) in expected for p, text, _, who in judgements)
    assert used + left_out.get("rating without a partner", 0) == len(judgements)
    assert all(2 <= len(responses) <= 9 for responses in rankings["responses"])


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_rows_does_not_change_the_judgement(order: int) -> None:
    rows = clean("ratings", *[rating("a", 2, "ann"), rating("b", 5, "ann"), rating("c", 3, "ann")][::order])
    (row,) = listed(to_rankings({"ratings": rows})[0], "responses", "ranks")
    assert dict(zip(*row, strict=True)) == {"a": 3, "b": 1, "c": 2}


def test_rankings_as_thumbs() -> None:
    """Of 1, 2, 3 the middle is left out; of 1, 1, 2 and 1, 2, 2 nobody is in the middle; a tie says nothing."""
    rows = clean(
        "rankings",
        {"responses": ["a", "b", "c"], "ranks": [2, 1, 3], "annotator": "ann", "group": "red"},
        {"responses": ["d", "e", "f"], "ranks": [1, 1, 2]},
        {"responses": ["g", "h", "i"], "ranks": [1, 2, 2]},
        {"responses": ["j", "k"], "ranks": [1, 1]},
    )
    thumbs, left_out = to_thumbs(rows)
    assert listed(thumbs, "response", "thumb") == [
        ("b", True),
        ("c", False),
        ("d", True),
        ("e", True),
        ("f", False),
        ("g", True),
        ("h", False),
        ("i", False),
    ]
    assert listed(thumbs, "annotator", "group")[:3] == [("ann", "red"), ("ann", "red"), ("", "")]
    assert left_out == {"answer in the middle of its ranking": 3}
    assert thumbs["id"].is_unique


def test_votes_are_pooled_over_groups_and_those_on_other_statements_are_counted() -> None:
    two, asked = ["It is.", "It is not."], user("Is it?")
    rows = clean(
        "beliefs",
        {"prompt": asked, "statements": ["Yes.", "No."], "votes": [1, 1], "group": "red"},
        {"prompt": asked, "statements": two, "votes": [3, 0], "group": "red"},
        {"prompt": asked, "statements": two, "votes": [1, 2], "group": "blue"},
        {"prompt": user("Was it?"), "statements": two, "votes": [0, 4], "group": "red"},
    )
    polls, left_out = to_polls(rows)
    assert listed(polls, "statements", "votes", "group") == [(two, [4, 2], ""), (two, [0, 4], "")]
    assert left_out == {"beliefs in other statements than most votes on the prompt": 1}


ORDERS = st.lists(st.integers(1, 4), min_size=2, max_size=9)


@settings(max_examples=15, deadline=None)
@given(ORDERS, st.randoms(use_true_random=False))
def test_the_pairs_of_a_ranking_are_its_order_whatever_the_places_of_the_answers(
    ranks: list[int], random: Random
) -> None:
    answers = [f"answer {n}" for n in range(len(ranks))]
    order = {
        (one, other): (other_rank > rank) - (other_rank < rank)
        for (one, rank), (other, other_rank) in combinations(zip(answers, ranks, strict=True), 2)
    }
    places = list(range(len(ranks)))
    random.shuffle(places)
    mixed: dict[str, Any] = {
        "responses": [answers[n] for n in places],
        "ranks": [ranks[n] for n in places],
        "annotator": "ann",
    }
    rankings, left_out = to_rankings({"rankings": clean("rankings", mixed)})
    assert left_out == {}
    found = pairs({"rankings": rankings.assign(**{HASH: "p"})})
    assert {(row.low, row.high): row.preferred for row in found.itertuples()} == order
    assert set(found["annotator"]) == {"ann"}
    turned = clean("rankings", mixed | {"ranks": [5 - rank for rank in mixed["ranks"]]})
    opposite = {(row.low, row.high): -row.preferred for row in pairs({"rankings": turned}).itertuples()}
    assert opposite == order
    assert [list(rankings["prompt"][0])] == [list(clean("rankings", mixed)["prompt"][0])]


@settings(max_examples=10, deadline=None)
@given(st.booleans(), st.sampled_from(["", "ann"]), st.sampled_from(["overall", "harmless"]), st.text("pq", min_size=1))
def test_swapping_the_answers_of_a_comparison_flips_it_and_keeps_who_was_asked_what(
    tie: bool, annotator: str, criterion: str, prompt: str
) -> None:
    asked = {"tie": tie, "annotator": annotator, "criterion": criterion, "prompt": user(prompt), "group": "red"}
    sides = [{"chosen": "a", "rejected": "b"}, {"chosen": "b", "rejected": "a"}]
    tables = [{"comparisons": clean("comparisons", asked | side)} for side in sides]
    one, other = (to_rankings(table)[0] for table in tables)
    kept = ["annotator", "criterion", "group"]
    assert listed(one, *kept) == listed(other, *kept) == [(annotator, criterion, "red")]
    assert [message["content"] for message in one["prompt"][0]] == [prompt]
    assert list(one["responses"][0]) == list(other["responses"][0])[::-1]
    assert list(one["ranks"][0]) == list(other["ranks"][0]) == ([1, 1] if tie else [1, 2])
    thumbs, other_thumbs = (to_thumbs(rankings)[0] for rankings in (one, other))
    up = {row.response: row.thumb for row in thumbs.itertuples()}
    assert up == {row.response: not row.thumb for row in other_thumbs.itertuples()}
    assert up == ({} if tie else {"a": True, "b": False})
    assert set(thumbs["annotator"]) <= {annotator}
