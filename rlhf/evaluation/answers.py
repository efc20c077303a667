"""A model's answers to prompts, with what can be measured of each without a judge of taste."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.batching.ragged import Ragged
from rlhf.config.training import EvaluateConfig
from rlhf.models.scoring import token_log_probs
from rlhf.objectives.kl import k3
from rlhf.rollouts.rewards import Judge, Rewards
from rlhf.rollouts.sampling import Sample, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of one model, one a prompt."""

    samples: list[Sample]
    rewards: Tensor  # (B, C) scores of the trained reward models
    referee: list[float]  # score of each answer by the reward model that nothing was aligned with
    kl: list[float]  # estimate of KL(policy || SFT) of each answer, nats a sequence (k3 summed over its tokens), or NaN

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what `tensors` gave."""
        found = zip(Ragged.named(tensors, "responses"), tensors["terminated"].tolist(), strict=True)
        samples = [Sample(ids.tolist(), terminated) for ids, terminated in found]
        measured = {name: tensors[name].tolist() for name in ("referee", "kl")}
        return cls(samples=samples, rewards=tensors["rewards"], **measured)

    def tensors(self) -> dict[str, Any]:
        """All that there is, by name."""
        terminated = torch.tensor([one.terminated for one in self.samples])
        measured = {"terminated": terminated, "rewards": self.rewards}
        measured |= {"referee": torch.tensor(self.referee), "kl": torch.tensor(self.kl)}
        return Ragged.of(one.response for one in self.samples).arrays("responses") | measured


def answer(
    draw: Sampler,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: Rewards,
    referee: Judge,
    prompts: Sequence[list[int]],
    config: EvaluateConfig,
    *,
    max_tokens: int,
    eos: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Answers:
    """Sample one answer a prompt (ids), score it, and estimate the divergence from the reference."""
    samples = draw(
        policy,
        prompts,
        max_tokens=max_tokens,
        temperature=config.temperature,
        eos=eos,
        seed=seed,
        progress=progress,
    )
    turns = [Turn(p, s.response) for p, s in zip(prompts, samples, strict=True)]
    scores, watched, divergence = score(turns, policy, reference, reward, referee, config)
    return Answers(samples=samples, rewards=scores, referee=watched.tolist(), kl=divergence.tolist())


@torch.no_grad()
def score(
    turns: Sequence[Turn],
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: Rewards,
    referee: Judge,
    config: EvaluateConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards (B, C), the referee's scores (B,) and divergence (B,) of each turn, in the order of `turns`."""
    found, (watched, divergence) = torch.zeros(len(turns), len(reward.judges)), torch.zeros(2, len(turns))
    order = sorted(range(len(turns)), key=lambda i: len(turns[i].prompt) + len(turns[i].response))
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        batch = pad([turns[i] for i in rows]).to(policy.device)
        log_probs = token_log_probs(policy, batch, temperature=config.temperature).log_probs
        reference_log_probs = token_log_probs(reference, batch, temperature=config.temperature).log_probs
        found[rows] = reward(batch).cpu()
        watched[rows] = referee(batch).cpu()
        divergence[rows] = (k3(log_probs, reference_log_probs) * batch.mask).sum(dim=1).cpu()
    return found, watched, divergence


def distinct_2(responses: Sequence[list[int]]) -> float:
    """Share of distinct pairs of neighbouring tokens among all of them (Li et al. 2016); 0 when there are none."""
    pairs = [pair for ids in responses for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
