"""How many different things a model says: to one prompt asked again and again, and over all prompts."""

from collections.abc import Sequence
from itertools import pairwise

from rlhf.rollouts.sampling import Sample


def distinct_2(responses: Sequence[list[int]]) -> float:
    """Share of distinct pairs of neighbouring tokens among all of them (Li et al. 2016); 0 when there are none."""
    pairs = [pair for ids in responses for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def prompt_diversity(samples: Sequence[Sample], answers: int) -> list[float]:
    """`distinct_2` of the answers to each prompt; `samples` holds so many of each, side by side."""
    groups = (samples[start : start + answers] for start in range(0, len(samples), answers))
    return [distinct_2([one.response for one in group]) for group in groups]
