"""What a policy believes beside what people believe, and whose preferences it follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.batches import RankedTurns, pad
from rlhf.batching.beliefs import Poll, encode_poll, find_statement, pad_polls
from rlhf.batching.encoding import decode
from rlhf.config.training import EvaluateConfig
from rlhf.models.scoring import sequence_log_probs
from rlhf.rollouts.sampling import sample


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What a policy believes of each prompt that people were polled on."""

    shares: list[NDArray[np.float64] | None]  # (K,) of each belief; None where no answer states one
    stated: float  # share of answers that state one


def beliefs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    polls: Sequence[dict[str, Any]],
    config: EvaluateConfig,
    *,
    max_tokens: int,
    seed: int,
) -> Beliefs:
    """Sample `config.belief_answers` answers to each prompt (ids) and read what they believe.

    Of an answer that states one of the poll's beliefs, pi(b | x, what stands before) is taken in place of the one that
    was drawn: the mean over answers has the same expectation and far less noise. polls: rows of table `beliefs`.
    """
    answers = config.belief_answers
    samples = sample(
        policy,
        [ids for ids in prompts for _ in range(answers)],
        max_tokens=max_tokens,
        temperature=config.temperature,
        eos=tokenizer.eos_token_id,
        batch_size=config.batch_size,
        seed=seed,
    )
    asked, owner = list[Poll](), list[int]()
    for place, answer in enumerate(samples):
        row = place // answers
        if stated := find_statement(decode(tokenizer, answer.response), polls[row]["statements"]):
            asked.append(encode_poll(tokenizer, prompts[row], stated.before, polls[row]))
            owner.append(row)
    found: list[list[NDArray[np.float64]]] = [[] for _ in prompts]
    for row, shares in zip(owner, belief_shares(policy, asked, config), strict=True):
        found[row].append(shares)
    means = [np.mean(each, axis=0) if each else None for each in found]
    return Beliefs(means, len(asked) / len(samples))


@torch.no_grad()
def belief_shares(policy: PreTrainedModel, polls: Sequence[Poll], config: EvaluateConfig) -> list[NDArray[np.float64]]:
    """pi(b | x) among the beliefs of each poll, (K,) each."""
    shares = []
    for start in range(0, len(polls), config.batch_size):
        batch = pad_polls(polls[start : start + config.batch_size]).to(policy.device)
        log_probs = batch.per_belief(sequence_log_probs(policy, batch.statements))
        found = log_probs.masked_fill(~batch.mask, -torch.inf).softmax(dim=1).double().cpu().numpy()
        shares += [row[: len(poll.votes)] for row, poll in zip(found, polls[start:], strict=False)]
    return shares


def jensen_shannon_distance(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Distance of two distributions (K,), 0 of equal ones to 1 of those that share nothing.

    sqrt(KL(p || m) / 2 + KL(q || m) / 2),   m = (p + q) / 2, logarithms to base 2      (Endres & Schindelin 2003)
    """
    middle = (p + q) / 2

    def divergence(of: NDArray[np.float64]) -> float:
        held = of > 0
        return float((of[held] * np.log2(of[held] / middle[held])).sum())

    return float(np.sqrt(max(0.0, divergence(p) / 2 + divergence(q) / 2)))


@torch.no_grad()
def log_ratios(policy: PreTrainedModel, reference: PreTrainedModel, group: RankedTurns) -> NDArray[np.float64]:
    """log pi(y | x) / pi_ref(y | x) of one prompt's answers, (K,)."""
    batch = pad(group.answers).to(policy.device)
    ratios = sequence_log_probs(policy, batch) - sequence_log_probs(reference, batch)
    return ratios.double().cpu().numpy()


def contested_margins(
    ranks: Sequence[int], held: Sequence[int | None], votes: Sequence[int], ratios: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    """Margins log-ratio(better) - log-ratio(worse), in nats, of one ranking's pairs that state different beliefs: those
    whose better answer sides with fewer people than the worse one, and those where it sides with more.

    held: the place among the poll's statements of what each answer states, None where it states none.
    """
    minority, majority = list[float](), list[float]()
    for i, one in enumerate(held):
        for j, other in enumerate(held):
            if one is None or other is None or ranks[i] >= ranks[j] or votes[one] == votes[other]:
                continue
            (minority if votes[one] < votes[other] else majority).append(float(ratios[i] - ratios[j]))
    return minority, majority
