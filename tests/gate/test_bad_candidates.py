"""Policies that are bad in one way each: what they say goes through the functions that evaluate measures with, and the
check that is meant for each stops it, by name."""

from collections.abc import Callable, Sequence
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from rlhf.config import load_config
from rlhf.config.gate import GateConfig
from rlhf.evaluation.answers import Answers
from rlhf.evaluation.diversity import distinct_2, prompt_diversity
from rlhf.evaluation.rows import answer_rows
from rlhf.evaluation.safety import safety_rate, safety_rows
from rlhf.gate.checks import run_checks
from rlhf.gate.evidence import Evidence
from rlhf.models.small import train_tokenizer
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample
from rlhf.world.demonstrator import demonstrate
from rlhf.world.gold import complies_with_harm, is_borderline, refuses
from rlhf.world.lexicon import REFUSALS
from rlhf.world.probes import ASKS, draw_probes
from rlhf.world.prompts import Messages, draw_form, draw_goal, draw_prompt, draw_use_case
from rlhf.world.requests import understand
from tasks.evaluate import judge_by_gold
from tests.gate.conftest import ROOT, made_evidence

CONFIG = load_config(ROOT / "params.yaml")
PEOPLE = CONFIG.world.demonstrator
FLAWLESS = PEOPLE.model_copy(update={"wrong": 0.0, "off_topic": 0.0, "rude": 0.0, "complies_with_harm": 0.0})
PROMPTS, AGAIN, TIMES = 320, 50, 8
MEASURED = ("sanity", "safety", "alignment tax", "diversity")  # groups of checks
Policy = Callable[[Random, Messages], str]


def good(rng: Random, prompt: Messages) -> str:
    return demonstrate(rng, prompt, FLAWLESS).response


def people(rng: Random, prompt: Messages) -> str:
    """SFT, as well as it can be: the answers that it learns from."""
    return demonstrate(rng, prompt, PEOPLE).response


def silent(rng: Random, prompt: Messages) -> str:
    return ""


def stuck(rng: Random, prompt: Messages) -> str:
    return " ".join([rng.choice(("help", "sure", "just", "please"))] * 10)


def endless(rng: Random, prompt: Messages) -> str:
    return " ".join(rng.sample(sentences(), 12))


def parrot(rng: Random, prompt: Messages) -> str:
    return " ".join(prompt[-1]["content"].split()[:20])


def timid(rng: Random, prompt: Messages) -> str:
    return rng.choice(REFUSALS) if is_borderline(prompt) else good(rng, prompt)


def obliging(rng: Random, prompt: Messages) -> str:
    return demonstrate(rng, prompt, FLAWLESS.model_copy(update={"complies_with_harm": 1.0})).response


def ignorant(rng: Random, prompt: Messages) -> str:
    """It answers as another prompt deserves."""
    return rng.choice(sentences()) if understand(prompt).subject else good(rng, prompt)


def collapsed(rng: Random, prompt: Messages) -> str:
    return "Happy to help. I think it is as good as can be."


def rigid(rng: Random, prompt: Messages) -> str:
    """A good answer, and always the same to one prompt."""
    return good(Random(str(prompt)), prompt)


CANDIDATES: dict[str, tuple[Policy, set[str]]] = {
    "good": (good, set()),
    "empty": (silent, {"empty", "broken", "capability", "prompt_diversity", "distinct_2", "mode_share"}),
    "repeating": (stuck, {"repetition", "capability", "prompt_diversity", "distinct_2", "mode_share"}),
    "never ending": (endless, {"terminated", "broken", "capability", "distinct_2"}),
    "copying": (parrot, {"copying", "capability", "prompt_diversity"}),
    "over-refusing": (timid, {"over_refusal"}),
    "harmful": (obliging, {"harmful_compliance", "harmful_increase"}),
    "ignorant": (ignorant, {"capability"}),
    "mode-collapsed": (collapsed, {"capability", "prompt_diversity", "distinct_2", "mode_share"}),
    "rigid": (rigid, {"prompt_diversity"}),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_each_bad_candidate_is_stopped_by_the_checks_that_are_meant_for_it(name: str, thresholds: GateConfig) -> None:
    policy, meant = CANDIDATES[name]
    evidence = evidence_of(policy)
    gain = evidence.rows["policy_reward"] - evidence.rows["sft_reward"]
    assert gain == pytest.approx(2.0, abs=1e-5), "the reward model likes it"
    config = thresholds.model_copy(update={"slices": {"use_case": []}})
    stops = [check for check in run_checks(evidence, config) if check.stops]
    assert {c.name: c.outcome for c in stops if c.group in MEASURED} == dict.fromkeys(meant, "fail")
    assert name != "good" or not stops


def evidence_of(policy: Policy) -> Evidence:
    """A policy beside people as SFT and as the champion. What its texts do not show is that of a good one."""
    prompts, models = conversations(), {"sft": people, "policy": policy, "champion": people}
    answers = {side: said(model, prompts, f"{side} once") for side, model in models.items()}
    known = {"use_case": "any", "kind": "plain", "seen": 0.0}
    rows = answer_rows(
        [{"id": f"p{n:04}", "prompt": prompt, **known} for n, prompt in enumerate(prompts)],
        [tokenizer()(prompt[-1]["content"])["input_ids"] for prompt in prompts],
        {side: scored(samples, 2.0 if side == "policy" else 0.0) for side, samples in answers.items()},
        Rewards({"overall": lambda batch: batch.starts}, {"overall": 1.0}, "raw"),
        tokenizer(),
    )
    judge_by_gold(rows, list(models))
    for row in rows:
        row |= {f"points_{side}": by_gold(row, side) for side in ("sft", "champion")}
    again = [prompt for prompt in prompts[:AGAIN] for _ in range(TIMES)]
    varied = {side: prompt_diversity(said(models[side], again, side), TIMES) for side in ("sft", "policy")}
    texts = {
        side: [model(Random(f"{side} {n}"), row["prompt"]) for n, row in enumerate(requests())]
        for side, model in models.items()
    }
    safety = safety_rows(requests(), texts, complies_with_harm, refuses)
    columns = as_columns(rows)
    return made_evidence(
        columns,
        evaluation={
            **made_evidence(columns).evaluation,
            "distinct_2": {side: distinct_2([one.response for one in found]) for side, found in answers.items()},
            "harmful_compliance": safety_rate(safety, list(models), "harmful", "complied"),
            "over_refusal": safety_rate(safety, list(models), "borderline", "refused"),
        },
        safety=as_columns(safety),
        diversity={f"{side}_distinct_2": np.array(found) for side, found in varied.items()},
    )


@cache
def conversations() -> list[Messages]:
    return [asked(Random(number)) for number in range(PROMPTS)]


@cache
def sentences() -> list[str]:
    """Good answers, none of which refuses."""
    said = (good(Random(number), prompt) for number, prompt in enumerate(conversations()))
    return [text for text in said if not refuses(text)]


def asked(rng: Random) -> Messages:
    use_case = draw_use_case(rng)
    goal, form = draw_goal(rng, use_case, CONFIG.world), draw_form(rng, CONFIG.world)
    return draw_prompt(rng, use_case, goal, form)[0]


@cache
def requests() -> list[dict[str, object]]:
    """Requests that are harmful, and that look harmful."""
    return [
        {"kind": kind, "prompt": prompt}
        for kind in ASKS
        for prompt in draw_probes(CONFIG.world, 0, kind, CONFIG.evaluate.safety_prompts, lambda prompt: True)
    ]


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([people(Random(n), prompt) for n, prompt in enumerate(conversations())], 1000)


def said(model: Policy, prompts: Sequence[Messages], seed: str) -> list[Sample]:
    """What a model says to each prompt, cut where answers are cut."""
    longest, samples = CONFIG.tokens.response, []
    for number, prompt in enumerate(prompts):
        text = model(Random(f"{seed} {number}"), prompt)
        ids = [*tokenizer()(text)["input_ids"], tokenizer().eos_token_id]
        samples.append(Sample(ids[:longest], len(ids) <= longest))
    return samples


def by_gold(row: dict[str, float], opponent: str) -> float:
    return (np.sign(row["policy_gold"] - row[f"{opponent}_gold"]) + 1) / 2


def scored(samples: list[Sample], reward: float) -> Answers:
    """The answers, all with one reward."""
    rewards = reward + torch.randn(len(samples), 1, generator=torch.Generator().manual_seed(0))
    ones = np.ones(len(samples))
    return Answers(
        samples=samples,
        rewards=rewards,
        referee=rewards[:, 0].tolist(),
        kl=(3 * ones).tolist(),
        entropy=(0.5 * ones).tolist(),
    )


def as_columns(rows: list[dict[str, object]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "prompt"}
