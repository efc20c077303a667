"""A model's answers to prompts, with what can be measured of each without a judge of taste."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of one model, one a prompt."""

    samples: list[Sample]
    rewards: Tensor  # (B, C) scores of the trained reward models
    kl: list[float]  # estimate of KL(policy || SFT) of each answer, nats a sequence (k3 summed over its tokens), or NaN
    entropy: list[float]  # of the distributions that each answer's tokens were drawn from, nats a token, or NaN

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what `tensors` gave."""
        kl, entropy = tensors["kl"].tolist(), tensors["entropy"].tolist()
        return cls(samples=samples_of(tensors), rewards=tensors["rewards"], kl=kl, entropy=entropy)

    def tensors(self) -> dict[str, Any]:
        """All that there is, by name."""
        measured = {"rewards": self.rewards, "kl": torch.tensor(self.kl), "entropy": torch.tensor(self.entropy)}
        return of_samples(self.samples) | measured


def of_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """The answers, without the log-probabilities of their tokens, as tensors by name."""
    terminated = torch.tensor([one.terminated for one in samples], dtype=torch.bool)
    return Ragged.of(one.response for one in samples).arrays("responses") | {"terminated": terminated}


def samples_of(tensors: Mapping[str, Tensor]) -> list[Sample]:
    """From what `of_samples` gave."""
    found = zip(Ragged.named(tensors, "responses"), tensors["terminated"].tolist(), strict=True)
    return [Sample(ids.tolist(), terminated) for ids, terminated in found]


def answer(
    draw: Sampler,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: Rewards,
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
    scores, divergence, entropy = score(turns, policy, reference, reward, config)
    return Answers(samples=samples, rewards=scores, kl=divergence.tolist(), entropy=entropy.tolist())


@torch.no_grad()
def score(
    turns: Sequence[Turn],
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    reward: Rewards,
    config: EvaluateConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards (B, C), divergence (B,), and mean entropy of the policy at the tokens (B,) of each turn, in the order of
    `turns`."""
    found = torch.zeros(len(turns), len(reward.judges))
    divergence, entropy = torch.zeros(len(turns)), torch.zeros(len(turns))
    order = sorted(range(len(turns)), key=lambda i: len(turns[i].prompt) + len(turns[i].response))
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        batch = pad([turns[i] for i in rows]).to(policy.device)
        scores = token_log_probs(policy, batch, temperature=config.temperature, entropy=True)
        reference_log_probs = token_log_probs(reference, batch, temperature=config.temperature).log_probs
        found[rows] = reward(batch).cpu()
        divergence[rows] = (k3(scores.log_probs, reference_log_probs) * batch.mask).sum(dim=1).cpu()
        assert scores.entropy is not None
        entropy[rows] = (scores.entropy.sum(dim=1) / batch.mask.sum(dim=1)).cpu()
    return found, divergence, entropy
