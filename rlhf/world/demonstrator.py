"""Those who write demonstrations: people with the behavioural gap of lecture 001, at the rates of the configuration."""

from dataclasses import dataclass
from random import Random

from rlhf.config.world import DemonstratorRates
from rlhf.world.answers import Flaws, answer
from rlhf.world.beliefs import draw_belief
from rlhf.world.lexicon import GROUPS
from rlhf.world.prompts import Messages, draw_harmless, draw_use_case
from rlhf.world.requests import Task, understand


@dataclass(frozen=True)
class Demonstration:
    """A prompt with somebody's answer, and what is wrong with it, which only the world knows."""

    prompt: Messages
    response: str
    flaws: Flaws


def demonstrate(rng: Random, prompt: Messages, rates: DemonstratorRates) -> Demonstration:
    """Answer the prompt, with flaws that come independently of each other."""
    task = understand(prompt)
    flaws = _draw_flaws(rng, task, rates)
    if flaws.off_topic:
        task = _other_task(rng, task)
    belief = draw_belief(rng, task.key, rng.choice(GROUPS)) if task.goal == "opinion" else ""
    return Demonstration(prompt, answer(rng, task, belief, flaws), flaws)


def _draw_flaws(rng: Random, task: Task, rates: DemonstratorRates) -> Flaws:
    """A wrong answer to a request for harm is one that complies; one that is off topic does neither."""
    harmful = task.goal == "refuse"
    off_topic = rng.random() < rates.off_topic
    return Flaws(
        wrong=rng.random() < rates.wrong and not harmful,
        off_topic=off_topic,
        verbose=rng.random() < rates.verbose,
        rude=rng.random() < rates.rude,
        complies_with_harm=rng.random() < rates.complies_with_harm and harmful and not off_topic,
    )


def _other_task(rng: Random, task: Task) -> Task:
    """A task that has nothing to do with the one that was given."""
    while True:
        other = understand(draw_harmless(rng, draw_use_case(rng)))
        if other.goal != task.goal and (not other.subject or other.subject != task.subject):
            return other
