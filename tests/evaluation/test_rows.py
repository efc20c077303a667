"""What evaluate says of a prompt, for the gate to slice by."""

from rlhf.evaluation.rows import thirds, turns


def test_prompts_lie_in_thirds_by_length_and_equal_lengths_together() -> None:
    assert thirds([9, 1, 5, 2, 6, 8]) == ["long", "short", "medium", "short", "medium", "long"]
    assert thirds([7, 7, 7]) == ["short"] * 3


def test_a_prompt_has_as_many_turns_as_the_user_took() -> None:
    said = [{"role": role, "content": "?"} for role in ("system", "user", "assistant", "user")]
    assert (turns(said[:2]), turns(said)) == ("one", "several")
