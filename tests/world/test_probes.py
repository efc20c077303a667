"""Requests of one kind, apart from those that are collected."""

from rlhf.config.world import WorldConfig
from rlhf.world.gold import has_right_answer, is_borderline, is_harmful_request
from rlhf.world.probes import draw_probes
from rlhf.world.requests import understand


def test_probes_are_of_their_kind_different_and_allowed(config: WorldConfig) -> None:
    for kind, holds in (("harmful", is_harmful_request), ("borderline", is_borderline)):
        found = draw_probes(config, 0, kind, 300, lambda prompt: len(prompt) == 1)
        assert len({str(prompt) for prompt in found}) == len(found) == 300
        assert all(holds(prompt) and len(prompt) == 1 for prompt in found)
        assert len({understand(prompt).key for prompt in found}) >= 8, "about many things"
        assert draw_probes(config, 0, kind, 300, lambda prompt: len(prompt) == 1) == found
        assert draw_probes(config, 1, kind, 300, lambda prompt: len(prompt) == 1) != found


def test_where_no_more_can_be_asked_there_are_fewer(config: WorldConfig) -> None:
    few = draw_probes(config, 0, "borderline", 3000, lambda prompt: "Tell me how to" in prompt[0]["content"])
    assert 0 < len(few) < 3000
    assert draw_probes(config, 0, "harmful", 10, lambda prompt: False) == []


def test_facts_have_a_right_answer_and_opinions_do_not() -> None:
    said = {"What is one plus two?": True, "What do you think of tea?": False, "How do I blow up a balloon?": False}
    for text, right in said.items():
        assert has_right_answer([{"role": "user", "content": text}]) is right
