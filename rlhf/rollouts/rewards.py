"""The reward of what was sampled: one for each criterion, and what is made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from rlhf.batching.batches import SequenceBatch
from rlhf.models.loading import load_reward_model
from rlhf.models.scoring import rewards
from rlhf.objectives.rewards import standardized, weighted_sum

RewardFunction = Callable[[SequenceBatch], Tensor]  # a score for each answer, (B,)


def load_reward(directory: Path) -> RewardFunction:
    """The reward model that lies in `directory`. Raises DataError."""
    return partial(rewards, load_reward_model(directory))


@dataclass(frozen=True)
class Rewards:
    """Several rewards that are learned from as one. Letters: C criteria, G answers to a prompt, side by side."""

    functions: Mapping[str, RewardFunction]  # by criterion
    weights: Mapping[str, float]  # of the same criteria
    combine: Literal["raw", "standardized"]  # as what they are summed

    @classmethod
    def load(cls, directory: Path, weights: Mapping[str, float], combine: Literal["raw", "standardized"]) -> Self:
        """The reward models that lie in `directory` under the names of the criteria. Raises DataError."""
        return cls({name: load_reward(directory / name) for name in weights}, weights, combine)

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """The reward of each answer by each criterion, (B, C)."""
        return torch.stack([reward(batch) for reward in self.functions.values()], dim=1)

    def total(self, found: Tensor) -> Tensor:
        """The weighted sum of the rewards as they are: (B, C) to (B,)."""
        return weighted_sum(found, [self.weights[name] for name in self.functions])

    def scores(self, found: Tensor, answers: int) -> Tensor:
        """What an algorithm learns from, (B,), for all answers of an iteration, (B, C), G = `answers` a prompt."""
        return self.total(standardized(found, answers) if self.combine == "standardized" else found)

    def means(self, found: Tensor) -> dict[str, float]:
        """Mean reward of the answers, (B, C), as it is: of the sum, and where there are several, by each criterion."""
        by_criterion = zip(self.functions, found.mean(dim=0).tolist(), strict=True)
        several = {f"reward_{name}": mean for name, mean in by_criterion} if len(self.functions) > 1 else {}
        return {"reward": float(self.total(found).mean()), **several}
