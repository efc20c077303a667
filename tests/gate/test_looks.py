"""A test set that has changed a little is the same: who was judged on it counts."""

from itertools import pairwise

import pytest

from rlhf.gate.looks import look, looks_before, name, sketch


def made(start: int, stop: int) -> str:
    """The name of a set of prompts."""
    return name({"prompts_digest": f"{start} to {stop}", "prompts_sketch": sketch(range(start, stop))})


def test_other_answers_and_another_judge_are_another_look() -> None:
    first = ("policy", "gold", ["Yes.", None])
    assert look(*first) == look("policy", "gold", iter(["Yes.", None]))
    others = [("other", *first[1:]), ("policy", "referee", first[2]), ("policy", "gold", ["Yes.", "No."])]
    assert len({look(*each) for each in (first, *others)}) == 4


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        (made(0, 500), True),
        (made(1, 500), True),
        (made(0, 450), True),
        (made(250, 750), True),  # a third of both
        (made(480, 1000), False),  # a fiftieth
        (made(500, 1000), False),
        ("0 to 500", True),  # as sets were named without a sketch
        ("1 to 500", False),
        ("", False),
    ],
)
def test_the_policies_of_sets_that_share_a_tenth_count(other: str, counts: bool) -> None:
    assert looks_before(made(0, 500), {other: ["a", "b"]}) == ({"a", "b"} if counts else set())
    assert looks_before("", {other: ["a"]}) == set()


def test_a_set_that_changes_by_a_prompt_each_night_never_begins_anew() -> None:
    nights = [made(night, 300 + night) for night in range(100)]
    judged = {night: [f"policy {number}"] for number, night in enumerate(nights)}
    assert all(looks_before(after, judged) >= {*judged[before]} for before, after in pairwise(nights))
    assert len(looks_before(nights[99], judged)) == 100


def test_small_sets_are_compared_whole() -> None:
    assert looks_before(made(0, 20), {made(18, 40): ["a"], made(10, 30): ["b"]}) == {"b"}
