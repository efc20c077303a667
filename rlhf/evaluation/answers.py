"""A model's answers to prompts, with what can be measured of each without a judge of taste."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batching.batches import SequenceBatch
from rlhf.batching.encoding import Turn
from rlhf.batching.ragged import Ragged
from rlhf.config.training import EvaluateConfig
from rlhf.models.scoring import scored, token_divergence
from rlhf.rollouts.rewards import RewardFunction, Rewards
from rlhf.rollouts.sampling import Sample, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of one model, one a prompt."""

    samples: list[Sample]
    rewards: Tensor  # (B, C) scores of the trained reward models
    referee: list[float]  # score of each answer by the reward model that nothing was aligned with
    kl: list[float]  # KL(policy || SFT) of each token, given those before it, summed over the answer: nats, or NaN
    entropy: list[float]  # of the distributions that each answer's tokens were drawn from, nats a token, or NaN

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what `of_samples` and `score` gave."""
        measured = {name: tensors[name].tolist() for name in ("referee", "kl", "entropy")}
        return cls(samples=samples_of(tensors), rewards=tensors["rewards"], **measured)


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
    rewards: tuple[Rewards, RewardFunction],
    prompts: Sequence[list[int]],
    config: EvaluateConfig,
    *,
    max_tokens: int,
    eos: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Sample one answer a prompt (ids), score it, and estimate the divergence from the reference: what `Answers.of`
    reads."""
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
    return of_samples(samples) | score(turns, policy, reference, rewards, config)


def score(
    turns: Sequence[Turn],
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    rewards: tuple[Rewards, RewardFunction],
    config: EvaluateConfig,
) -> dict[str, Tensor]:
    """Of each turn, in the order of `turns`: what `rewards_of` gives, the divergence `kl` (B,), and the mean `entropy`
    of the policy at its tokens (B,)."""

    def divergence(batch: SequenceBatch) -> Tensor:
        kl, entropy = token_divergence(policy, reference, batch, temperature=config.temperature)
        return torch.stack([kl.sum(dim=1), entropy.sum(dim=1) / batch.mask.sum(dim=1)], dim=1)

    each = torch.cat(scored(divergence, [[turn] for turn in turns], config.batch_size, policy.device))
    return rewards_of(turns, rewards, config.batch_size, policy.device) | {"kl": each[:, 0], "entropy": each[:, 1]}


def rewards_of(
    turns: Sequence[Turn], rewards: tuple[Rewards, RewardFunction], size: int, device: torch.device
) -> dict[str, Tensor]:
    """Of each turn: `rewards` (B, C), and the score of the `referee` (B,)."""
    reward, referee = rewards

    def scores(batch: SequenceBatch) -> Tensor:
        return torch.cat([reward(batch), referee(batch)[:, None]], dim=1)

    each = torch.cat(scored(scores, [[turn] for turn in turns], size, device))
    return {"rewards": each[:, :-1], "referee": each[:, -1]}
