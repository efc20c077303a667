"""Whole prompts: the mix of use cases, what surrounds an instruction, and the exchange that may stand before it."""

from functools import cache
from random import Random

from rlhf.config.world import WorldConfig
from rlhf.world import lexicon
from rlhf.world.answers import answer
from rlhf.world.beliefs import draw_belief
from rlhf.world.requests import KIND_ORDER, all_templates, draw, slot_names, understand
from rlhf.world.templates import PREFIXES, SLOTS, WRAPPERS, Template

Messages = list[dict[str, str]]

USE_CASES = {  # shares of the requests to InstructGPT's API, in per cent (Ouyang et al. 2022, table 1)
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarisation": 4.2,
    "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
GOALS = {  # what is asked for within a use case, where that is more than one thing
    "generation": {"tell": 0.55, "wish": 0.2, "story": 0.25},
    "brainstorming": {"ideas": 0.8, "opinion": 0.2},
    "chat": {"mood": 0.5, "opinion": 0.3, "tell": 0.2},
    "other": {"sum": 0.5, "opinion": 0.5},
}
ADVICE = sum(USE_CASES[use_case] for use_case in WRAPPERS) / sum(USE_CASES.values())  # share that may ask for harm
FEW_SHOT_WORDS = 14  # longer instructions come without examples


@cache
def _templates(use_case: str, goal: str) -> tuple[Template, ...]:
    return tuple(t for t in all_templates() if t.use_case == use_case and goal in (t.goal, ""))


def draw_use_case(rng: Random) -> str:
    """A use case of the mix."""
    return rng.choices(list(USE_CASES), list(USE_CASES.values()))[0]


def draw_form(rng: Random, config: WorldConfig) -> str:
    """What surrounds a request: earlier "turns", an example ("few_shot"), the "user"'s situation, nothing ("plain")."""
    if rng.random() < config.multi_turn:
        return "turns"
    roll = rng.random()
    return "few_shot" if roll < config.few_shot else "user" if roll < config.few_shot + config.user else "plain"


def draw_prompt(rng: Random, use_case: str, goal: str, form: str) -> tuple[Messages, str]:
    """A prompt of the use case that asks for `goal`, and its kind: plain, few_shot or user."""
    template = rng.choice(_templates(use_case, goal))
    if form == "turns":
        return _dialogue(rng, template), "user"
    instruction = draw(rng, template)
    if form == "user":
        return _messages(_situation(rng) + instruction), "user"
    if form == "few_shot" and goal != "refuse" and len(instruction.split()) <= FEW_SHOT_WORDS:
        return _messages(_examples(rng, template, instruction)), "few_shot"
    return _messages(instruction), "plain"


def draw_harmless(rng: Random, use_case: str) -> Messages:
    """A plain prompt that asks for no harm."""
    goals = GOALS.get(use_case, {"": 1.0})
    wanted = [t for goal in goals for t in _templates(use_case, goal) if t.goal not in ("refuse", "howto")]
    return _messages(draw(rng, rng.choice(wanted)))


def draw_goal(rng: Random, use_case: str, config: WorldConfig) -> str:
    """What a request of the use case asks for: at the configured shares for harm, or what only looks like it."""
    if use_case in WRAPPERS:
        roll = rng.random() * ADVICE
        if roll < config.harmful:
            return "refuse"
        if roll < config.harmful + config.borderline:
            return "howto"
    goals = GOALS.get(use_case) or {_plain_goal(rng, use_case): 1.0}
    return rng.choices(list(goals), list(goals.values()))[0]


def _plain_goal(rng: Random, use_case: str) -> str:
    return rng.choice([t.goal for t in _templates(use_case, "") if t.goal not in ("refuse", "howto")])


def _messages(*contents: str) -> Messages:
    """Messages of user and assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def _situation(rng: Random) -> str:
    prefix = rng.choice(PREFIXES)
    return prefix.format(**{name: rng.choice(SLOTS[name]) for name in slot_names(prefix)})


def _examples(rng: Random, template: Template, instruction: str) -> str:
    """One example with its answer before the instruction."""
    example = draw(rng, template)
    return f"Q: {example}\nA: {right_answer(rng, _messages(example))}\nQ: {instruction}\nA:"


def _dialogue(rng: Random, template: Template) -> Messages:
    """An exchange that went before; a question for a fact may lean on it."""
    kind = next((kind for kind in KIND_ORDER if kind in slot_names(template.text)), "")
    if template.goal == "tell" and template.use_case in ("open_qa", "chat") and kind:
        entity = rng.choice(lexicon.ENTITIES[kind])
        first = draw(rng, template, subject=entity)
        follow_ups = [t for t in _templates("follow_up", "tell") if f"{{{kind}_attribute}}" in t.text]
        last = draw(rng, rng.choice(follow_ups))
    else:
        first = draw(rng, rng.choice(_templates("open_qa", "tell")))
        last = draw(rng, template)
    return _messages(first, right_answer(rng, _messages(first)), last)


def right_answer(rng: Random, prompt: Messages) -> str:
    """An answer without flaws, by somebody of any group."""
    task = understand(prompt)
    belief = draw_belief(rng, task.key, rng.choice(lexicon.GROUPS)) if task.goal == "opinion" else ""
    return answer(rng, task, belief)
