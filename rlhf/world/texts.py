"""Plain texts from which a model can learn the language of the world and what is true in it."""

from random import Random

from rlhf.world import lexicon
from rlhf.world.answers import answer
from rlhf.world.beliefs import draw_belief
from rlhf.world.facts import FACTS, KIND, statement
from rlhf.world.requests import Task

PROFILES = 0.75  # share of the texts that tell about people, towns and books


def draw_text(rng: Random) -> str:
    """A text of two or three parts: facts about entities, or sayings of other kinds."""
    part = _profile if rng.random() < PROFILES else _saying
    return " ".join(part(rng) for _ in range(rng.choice((2, 2, 3))))


def _profile(rng: Random) -> str:
    """Two to four facts about one entity."""
    entity = rng.choice(tuple(KIND))
    names = rng.sample(tuple(FACTS[entity]), rng.choice((1, 2, 2, 3)))
    if len(names) == 1 and rng.random() < 0.5:
        return f"The {names[0]} of {entity} is {FACTS[entity][names[0]]}."
    return statement(rng, entity, {name: FACTS[entity][name] for name in names})


def _saying(rng: Random) -> str:
    """Advice, ideas, sums, stories, what a group believes: each as somebody would put it."""
    kind = rng.choice(("idea", "mood", "howto", "sum", "story", "opinion", "what", "review", "wish"))
    if kind == "idea":
        event = rng.choice(tuple(lexicon.IDEAS))
        return f"For {event} you could {' and '.join(rng.sample(lexicon.IDEAS[event], 2))}."
    if kind == "mood":
        mood = rng.choice(tuple(lexicon.MOODS))
        return f"If you feel {mood}, {rng.choice(lexicon.MOODS[mood])}."
    if kind == "howto":
        act = rng.choice(tuple(lexicon.HOWTOS))
        return f"To {act}, {rng.choice(lexicon.HOWTOS[act])}."
    if kind == "sum":
        first, second = rng.choices(range(1, 7), k=2)
        one, two, total = (lexicon.NUMBERS[n - 1] for n in (first, second, first + second))
        return f"{one.capitalize()} plus {two} is {total}."
    if kind == "story":
        terms = (rng.choice(lexicon.VALUES["job"]), rng.choice(lexicon.VALUES["pet"]))
        return answer(rng, Task("story", terms=terms), "")
    if kind == "opinion":
        topic, group = rng.choice(lexicon.TOPICS), rng.choice(lexicon.GROUPS)
        return f"I believe {topic} is {draw_belief(rng, topic, group)}."
    if kind == "what":
        entity = rng.choice(tuple(KIND))
        return f"{entity} is a {KIND[entity]}."
    if kind == "review":
        label = rng.choice(tuple(lexicon.REVIEWS))
        return f"The {rng.choice(lexicon.REVIEWED)} was {rng.choice(lexicon.REVIEWS[label])}. The review is {label}."
    occasion = rng.choice(tuple(lexicon.OCCASIONS))
    return f"A {occasion} message says: {lexicon.OCCASIONS[occasion].capitalize()}, {rng.choice(lexicon.PEOPLE)}!"
