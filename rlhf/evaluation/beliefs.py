"""What a policy believes beside what people believe, and whose preferences it follows."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.beliefs import Poll, encode_poll, find_statement
from rlhf.batching.encoding import decode, encode_prompt
from rlhf.config.training import EvaluateConfig, TokensConfig
from rlhf.models.scoring import scored, sequence_log_probs
from rlhf.rollouts.sampling import Sampler

Row = dict[str, Any]
Margins = tuple[list[float], list[str]]  # in nats, and the prompt that each is of


def belief_distances(
    draw: Sampler,
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    polls: Sequence[Row],
    config: EvaluateConfig,
    limits: TokensConfig,
    *,
    seed: int,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The distance of what each model states from what people believe, prompt by prompt; and the share of its answers
    that state a belief.

    polls: rows of table `beliefs`. The prompts are those that fit `limits` and of which an answer of each model states
    a belief: the same for all.
    """
    prompts = [encode_prompt(tokenizer, poll["prompt"]) for poll in polls]
    asked = [(ids, poll) for ids, poll in zip(prompts, polls, strict=True) if len(ids) <= limits.prompt]
    distances, stated = {name: list[float]() for name in models}, dict.fromkeys(models, 0.0)
    held = dict[str, list[NDArray[np.float64] | None]]()
    for offset, (name, model) in enumerate(models.items()):
        held[name], stated[name] = _stated(draw, model, tokenizer, asked, config, limits.response, seed + offset)
    for row, (_, poll) in enumerate(asked):
        people = np.array(poll["votes"]) / sum(poll["votes"])
        found = {name: shares for name in models if (shares := held[name][row]) is not None}
        if len(found) == len(models):
            for name, shares in found.items():
                distances[name].append(jensen_shannon_distance(people, shares))
    return distances, stated


def _stated(
    draw: Sampler,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[list[int], Row]],
    config: EvaluateConfig,
    max_tokens: int,
    seed: int,
) -> tuple[list[NDArray[np.float64] | None], float]:
    """Of each prompt, the share of each belief in what is stated, (K,), None where nothing is; and how often it is.

    Of an answer that states a belief, pi(b | x, what stands before) is taken in place of the one that was drawn: the
    mean over answers has the same expectation among statements, and far less noise.
    """
    answers = config.belief_answers
    samples = draw(
        policy,
        [ids for ids, _ in asked for _ in range(answers)],
        max_tokens=max_tokens,
        temperature=config.temperature,
        eos=tokenizer.eos_token_id,
        seed=seed,
    )
    polls, owners = list[Poll](), list[int]()
    for place, answer in enumerate(samples):
        ids, poll = asked[place // answers]
        if statement := find_statement(decode(tokenizer, answer.response), poll["statements"]):
            polls.append(encode_poll(tokenizer, ids, statement.before, poll))
            owners.append(place // answers)
    found: list[list[NDArray[np.float64]]] = [[] for _ in asked]
    for row, shares in zip(owners, belief_shares(policy, polls, config), strict=True):
        found[row].append(shares)
    return [np.mean(each, axis=0) if each else None for each in found], len(polls) / max(1, len(samples))


def belief_shares(policy: PreTrainedModel, polls: Sequence[Poll], config: EvaluateConfig) -> list[NDArray[np.float64]]:
    """pi(b | x) among the beliefs of each poll, (K,) each, of the policy that samples at `config.temperature`."""
    score = partial(sequence_log_probs, policy, temperature=config.temperature)
    found = scored(score, [poll.statements for poll in polls], config.batch_size, policy.device)
    return [log_probs.softmax(dim=0).double().numpy() for log_probs in found]


def jensen_shannon_distance(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Distance of two distributions (K,), 0 of equal ones to 1 of those that share nothing.

    sqrt(KL(p || m) / 2 + KL(q || m) / 2),   m = (p + q) / 2, logarithms to base 2      (Endres & Schindelin 2003)
    """
    middle = (p + q) / 2

    def divergence(of: NDArray[np.float64]) -> float:
        held = of > 0
        return float((of[held] * np.log2(of[held] / middle[held])).sum())

    return float(np.sqrt(max(0.0, divergence(p) / 2 + divergence(q) / 2)))


def contested_margins(rankings: Iterable[tuple[Row, Row, Sequence[float]]]) -> tuple[Margins, Margins]:
    """Margins h(better) - h(worse), h = log pi(y | x) / pi_ref(y | x), of the pairs of answers that state different
    beliefs: those that side with fewer people than the other answer does, and those that side with more.

    rankings: rows of table `rankings`, each with the row of table `beliefs` that has its prompt, and h of its answers.
    """
    minority: Margins = ([], [])
    majority: Margins = ([], [])
    for row, poll, ratios in rankings:
        stated = [find_statement(text, poll["statements"]) for text in row["responses"]]
        held = [None if one is None else poll["votes"][one.belief] for one in stated]
        for side, found in zip((minority, majority), sides(row["ranks"], held, ratios), strict=True):
            side[0].extend(found)
            side[1].extend([str(poll["prompt"])] * len(found))
    return minority, majority


def sides(
    ranks: Sequence[int], votes: Sequence[int | None], ratios: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Margins of the pairs of one ranking that side with the fewer, and with the more.

    votes: how many people hold what each answer states, None where it states nothing.
    """
    minority, majority = list[float](), list[float]()
    for i, ours in enumerate(votes):
        for j, theirs in enumerate(votes):
            if ours is not None and theirs is not None and ranks[i] < ranks[j] and ours != theirs:
                (minority if ours < theirs else majority).append(ratios[i] - ratios[j])
    return minority, majority
