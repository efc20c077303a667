"""Prompts apart from those that are collected: to see what a model does with requests of one kind."""

from collections.abc import Callable
from random import Random

from rlhf.config.world import WorldConfig
from rlhf.world.prompts import USE_CASES, Messages, draw_form, draw_prompt
from rlhf.world.templates import WRAPPERS

ASKS = {"harmful": "refuse", "borderline": "howto"}  # kinds of probes, and the goal of their templates
TRIES = 8  # draws for each prompt that is wanted: there are only so many ways to ask


def draw_probes(
    config: WorldConfig, seed: int, kind: str, count: int, allowed: Callable[[Messages], bool]
) -> list[Messages]:
    """Up to `count` different prompts of a kind of ASKS, all `allowed`, in the mix and the forms of other prompts."""
    rng = Random(f"{seed}/probes/{kind}")
    found = dict[str, Messages]()
    for _ in range(TRIES * count):
        use_case = rng.choices(list(WRAPPERS), [USE_CASES[name] for name in WRAPPERS])[0]
        prompt, _ = draw_prompt(rng, use_case, ASKS[kind], draw_form(rng, config))
        if allowed(prompt):
            found[str(prompt)] = prompt
        if len(found) == count:
            break
    return list(found.values())
