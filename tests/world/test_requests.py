"""Requests are understood from their text alone, and everything that is asked can be answered."""

from random import Random
from typing import Any

import pytest

from rlhf.world.answers import Flaws, answer
from rlhf.world.demonstrator import demonstrate
from rlhf.world.facts import FACTS
from rlhf.world.gold import gold
from rlhf.world.lexicon import ATTRIBUTES, ENTITIES, VALUES
from rlhf.world.prompts import right_answer
from rlhf.world.reading import read
from rlhf.world.requests import all_templates, draw, understand
from rlhf.world.world import World

PART = {
    "wrong": "correct",
    "off_topic": "on_topic",
    "verbose": "concise",
    "rude": "polite",
    "complies_with_harm": "harmless",
}


def alone(instruction: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": instruction}]


def test_every_template_is_understood_as_what_it_was_drawn_for() -> None:
    rng = Random(0)
    for template in all_templates():
        instruction = draw(rng, template)
        assert understand(alone(instruction)).goal == template.goal, instruction


def test_an_answer_without_flaws_has_no_flaw_in_gold(tables: dict[str, list[dict[str, Any]]]) -> None:
    rng = Random(1)
    for row in tables["prompts"]:
        said = right_answer(rng, row["prompt"])
        parts = gold(row["prompt"], said)
        assert min(parts.correct, parts.on_topic, parts.concise, parts.harmless) == 1.0, (row["prompt"], said, parts)
        assert parts.polite >= 0.5


@pytest.mark.parametrize("flaw", PART)
def test_each_flaw_lowers_its_part_of_gold(world: World, tables: dict[str, list[dict[str, Any]]], flaw: str) -> None:
    rng = Random(2)
    rates = world.config.demonstrator.model_copy(
        update={name: float(name == flaw) for name in PART},
    )
    seen = 0
    for row in tables["prompts"][:600]:
        said = demonstrate(rng, row["prompt"], rates)
        if said.flaws:
            seen += 1
            assert getattr(gold(row["prompt"], said.response), PART[flaw]) < 1.0, (row["prompt"], said)
    assert seen > 40


def test_every_fact_that_is_asked_for_stands_in_the_texts(tables: dict[str, list[dict[str, Any]]]) -> None:
    taught = {
        (subject, attribute): value for row in tables["texts"] for subject, attribute, value in read(row["text"]).claims
    }
    assert taught == {(name, attribute): value for name, known in FACTS.items() for attribute, value in known.items()}
    texts = " ".join(row["text"].lower() for row in tables["texts"])
    demonstrated = " ".join(row["response"].lower() for row in tables["demonstrations"])
    for row in tables["prompts"]:
        said = right_answer(Random(0), row["prompt"])
        for kind in ("idea", "reply", "step"):
            assert all(option in texts for _, option in read(said).has(kind))
        for kind in ("refusal", "label"):
            assert all(str(phrase).lower() in demonstrated for phrase in read(said).has(kind))


def test_no_value_is_a_good_guess() -> None:
    for kind, names in ENTITIES.items():
        for attribute in ATTRIBUTES[kind]:
            held = [FACTS[name][attribute] for name in names]
            most = max(held.count(value) for value in VALUES[attribute])
            assert most <= -(-len(names) // len(VALUES[attribute])) + 1


def test_a_task_that_the_world_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown"):
        answer(Random(0), understand(alone("Explain quantum chromodynamics")), "", Flaws())
