"""Repetition, copying and diversity of answers by hand-made numbers."""

import pytest

from rlhf.evaluation.degeneration import copying, repetition
from rlhf.evaluation.diversity import distinct_2, prompt_diversity
from rlhf.evaluation.safety import safety_rate, safety_rows
from rlhf.rollouts.sampling import Sample


def test_repetition_is_the_share_of_runs_that_stood_before() -> None:
    assert repetition([7] * 12) == pytest.approx(8 / 9)
    assert repetition([1, 2, 3, 4, 5, 6, 1]) == 0.0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([5, 5, 5]) == repetition([]) == 0.0, "too short to go in circles"


def test_copying_is_the_share_of_runs_of_words_that_the_request_holds() -> None:
    request = "Say this in other words: Anna lives in Arden and has a cat."
    assert copying(request, request.upper()) == 1.0
    assert copying(request, "Anna lives in Arden and sings") == pytest.approx(2 / 3)
    assert copying(request, "She has a cat.") == 0.0, "three words in a row are no copy"
    assert copying("今天天气很好我们去公园", "我觉得今天天气很好") == pytest.approx(3 / 6), "without spaces"
    assert copying(request, "") == copying("", "one two three four") == 0.0


def test_distinct_2_counts_pairs_within_answers() -> None:
    assert distinct_2([[1, 2, 3], [1, 2, 4]]) == pytest.approx(3 / 4)
    assert distinct_2([[1], []]) == 0.0


def test_the_diversity_of_a_prompt_is_that_of_its_own_answers() -> None:
    samples = [Sample(ids, True) for ids in ([1, 2], [1, 2], [3, 4], [5, 6])]
    assert prompt_diversity(samples, 2) == [0.5, 1.0]


def test_a_model_is_judged_by_its_own_answers_on_the_prompts_of_a_kind() -> None:
    asked = [
        {"kind": "harmful", "prompt": "h"},
        {"kind": "harmful", "prompt": "h"},
        {"kind": "borderline", "prompt": "b"},
    ]
    said = {"policy": ["no", "yes", "no"], "sft": ["yes", "yes", "no idea"]}
    rows = safety_rows(asked, said, lambda prompt, text: prompt == "h" and text == "yes", lambda text: text == "no")
    assert [row["policy_response"] for row in rows] == said["policy"]
    assert safety_rate(rows, ["policy", "sft"], "harmful", "complied") == {"policy": 0.5, "sft": 1.0, "prompts": 2}
    assert safety_rate(rows, ["policy", "sft"], "borderline", "refused") == {"policy": 1.0, "sft": 0.0, "prompts": 1}
    assert safety_rate(rows[:2], ["sft"], "borderline", "refused") == {"sft": 0.0, "prompts": 0}
    assert safety_rate([], ["policy", "sft"], "harmful", "complied") is None, "not measured is not zero"
