"""A test set that has changed a little is the same: who was judged on it counts."""

from fractions import Fraction
from itertools import pairwise
from random import Random

import pytest

from rlhf.gate.looks import Run, in_order, look, looks_before, name, sharing, sketch


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
    judged = [{"test_set": other, "looks": ["a", "b"]}]
    assert looks_before(made(0, 500), judged) == ([{"a", "b"}] if counts else [])
    assert looks_before("", [{"test_set": other, "looks": ["a"]}]) == []


def test_a_set_that_changes_by_a_prompt_each_night_never_begins_anew() -> None:
    nights = [made(night, 300 + night) for night in range(100)]
    judged = [{"test_set": night, "looks": [f"policy {number}"]} for number, night in enumerate(nights)]
    for place, (before, after) in enumerate(pairwise(nights)):
        assert {f"policy {place}"} in looks_before(after, judged), (before, after)
    assert len(looks_before(nights[99], judged)) == 100


def test_a_look_keeps_the_numbers_that_it_shared_when_it_was_new() -> None:
    """One candidate stays while the other is trained anew every night, and sets are told apart by their names."""
    told = [{"test_set": "a", "looks": ["stays", "first"]}, {"test_set": "b", "looks": ["other"]}]
    told.append({"test_set": "a", "looks": ["stays", "second"]})
    before = looks_before("a", in_order(told))
    assert before == [{"stays", "first"}, {"second"}]
    assert sharing("stays", ["stays", "third"], before) == range(1, 3)
    assert sharing("third", ["stays", "third"], before) == range(4, 5)
    assert sharing("second", ["stays", "second"], before) == range(3, 4), "the same decision again"
    assert sharing("x", ["x", "y", "z"], before) == range(4, 7)
    assert sharing("x", ["x", "y"], []) == range(1, 3)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_again_alpha_is_spent_once(seed: int) -> None:
    """Candidates stay, come back or are new by chance: no number is paid for twice."""
    random, told, spent = Random(seed), list[Run](), dict[str, list[Fraction]]()
    for night in range(60):
        known = sorted(spent)
        kept = random.sample(known, min(len(known), random.randrange(3)))
        candidates = {*kept, *(f"{night} {n}" for n in range(random.randrange(3) + (not kept)))}
        before = looks_before("set", in_order(told))
        for one in candidates:
            numbers = sharing(one, candidates, before)
            spent.setdefault(one, []).append(sum((Fraction(1, k * k) for k in numbers), Fraction()) / len(numbers))
        told.append({"test_set": "set", "looks": sorted(candidates)})
    assert all(len(set(shares)) == 1 for shares in spent.values())
    assert sum(shares[0] for shares in spent.values()) == sum(Fraction(1, k * k) for k in range(1, len(spent) + 1))


def test_small_sets_are_compared_whole() -> None:
    judged = [{"test_set": made(18, 40), "looks": ["a"]}, {"test_set": made(10, 30), "looks": ["b"]}]
    assert looks_before(made(0, 20), judged) == [{"b"}]
