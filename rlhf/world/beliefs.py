"""What the groups of the world believe: the distributions that GDPO must recover (lecture 000)."""

from collections.abc import Iterable, Mapping
from functools import cache
from math import exp
from random import Random
from types import MappingProxyType

from rlhf.world.lexicon import BELIEFS, GROUPS, TOPICS
from rlhf.world.reading import read
from rlhf.world.requests import understand

SPREAD = 1.0  # standard deviation of a group's beliefs, in steps from one belief to the next


@cache
def belief_distribution(topic: str, group: str) -> Mapping[str, float]:
    """Share of the group that holds each of BELIEFS, which go from "very good" to "very bad". Sums to 1.

    The groups' centres on a topic lie at least 1.5 steps apart, which group holds which differs by topic.
    """
    rng = Random(topic)
    centres = rng.sample([0.5, 2.5, 4.5], len(GROUPS))
    centre = centres[GROUPS.index(group)] + rng.uniform(-0.25, 0.25)
    weights = [exp(-((place - centre) ** 2) / (2 * SPREAD**2)) for place in range(len(BELIEFS))]
    return MappingProxyType({belief: w / sum(weights) for belief, w in zip(BELIEFS, weights, strict=True)})


def draw_belief(rng: Random, topic: str, group: str) -> str:
    """What one member of the group believes."""
    shares = belief_distribution(topic, group)
    return rng.choices(list(shares), list(shares.values()))[0]


def stated(topic: str, belief: str) -> str:
    """The words that state the belief, whatever stands around them."""
    return f"{topic} is {belief}."


def opinion_topic(prompt: Iterable[Mapping[str, str]]) -> str:
    """The topic on which a prompt asks for an opinion, "" for any other prompt. One of TOPICS."""
    task = understand(prompt)
    return task.key if task.goal == "opinion" and task.key in TOPICS else ""


def expressed_belief(response: str) -> str:
    """The one belief that a response expresses, "" when it expresses none or several."""
    beliefs = {str(belief) for belief in read(response).has("belief")}
    return beliefs.pop() if len(beliefs) == 1 else ""
