"""Examples follow their rules: by use case, or by how much better or worse the judge found an answer."""

import math
from typing import Any

from rlhf.report.examples import Answer, by_gain, by_rule
from tests.report.conftest import made_row


def test_examples_are_the_first_of_each_use_case_on_which_the_answers_differ() -> None:
    rows = [made_row(index, "dpo") for index in range(40)]
    found = by_rule(rows, "dpo")
    assert [(example.prompt_id, example.use_case) for example in found] == [
        ("003", "chat"),
        ("004", "extraction"),
        ("005", "rewrite"),
    ]
    assert found[0].ours.text == "Answer 3 of dpo, short and to the point."
    assert found[0].prompt == (("user", "Question 3: what is the capital of country 3?"),)


def test_there_may_be_fewer_examples_than_wanted() -> None:
    alike = [made_row(index, "dpo") | {"policy_response": "x", "sft_response": "x"} for index in range(9)]
    assert by_rule(alike, "dpo") == ()
    one_case = [made_row(index, "dpo") | {"use_case": "chat"} for index in range(9)]
    assert [example.prompt_id for example in by_rule(one_case, "dpo")] == ["003"]


def scored(gains: list[float], **columns: list[Any]) -> list[dict[str, Any]]:
    """Rows p0, p1 and so on, from the last to the first, on which gold likes the policy's answer better by `gains`."""
    rows = [
        made_row(index, "dpo")
        | {"prompt_id": f"p{index}", "sft_gold": 10.0, "policy_gold": 10.0 + gain}
        | {name: values[index] for name, values in columns.items()}
        for index, gain in enumerate(gains)
    ]
    return rows[::-1]


def test_the_largest_differences_come_first_and_of_equal_ones_the_first_that_was_drawn() -> None:
    better, worse = by_gain(scored([0.5, -0.2, 3.0, 0.0, -4.0, 0.5, 1.0, -0.1, -0.2, 0.5]), "dpo", "sft", "gold")
    assert [example.prompt_id for example in better] == ["p2", "p6", "p9"]
    assert [example.prompt_id for example in worse] == ["p4", "p8", "p1"]
    assert better[0].ours == Answer("dpo", "the same", 2.1, 13.0)
    assert better[0].theirs == Answer("sft", "the same", 0.1, 10.0)


def test_a_judge_that_gives_no_score_says_who_won() -> None:
    rows = scored([5.0, -5.0, math.nan, 1.0], points_sft=[0.0, 1.0, 1.0, 0.5])
    for judge in ("people", "gold", None):
        better, worse = by_gain(rows, "dpo", "sft", judge)
        assert [example.prompt_id for example in better] == ["p2", "p1"]
        assert [example.prompt_id for example in worse] == ["p0"]
    assert by_gain(scored([1.0], points_sft=[math.nan]), "dpo", "sft", None) == ((), ())


def test_the_opponent_is_the_champion_where_there_is_one() -> None:
    theirs = {"champion_gold": [11.5, 0.0], "champion_response": ["best", "worst"], "champion_reward": [None, 1.0]}
    better, worse = by_gain(scored([1.0, 1.0], **theirs), "dpo", "champion", "gold")
    assert [(example.prompt_id, example.theirs.text) for example in (*better, *worse)] == [
        ("p1", "worst"),
        ("p0", "best"),
    ]
    assert worse[0].theirs == Answer("champion", "best", None, 11.5)
