"""What an online algorithm is: how it credits the tokens of the answers that its policy sampled, and its loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batching.batches import SequenceBatch
from rlhf.batching.transfer import to_device
from rlhf.config.algorithms import OnlineConfig
from rlhf.models.machine import product_dtype
from rlhf.models.processes import shared_out
from rlhf.models.scoring import TokenScores, token_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import token_rewards
from rlhf.objectives.kl import k1

Part = tuple[Tensor, SequenceBatch]  # a micro-batch: which answers of all these are, and they, where the policy is

# Of the ratio of an iteration's first minibatch, which is scored twice in the same shape, by the type of its products.
_RATIO_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Answers of one iteration as they were when sampled: G answers of a prompt stand side by side, B in all."""

    batch: SequenceBatch  # on the CPU, as are the tensors
    parts: Sequence[Part]
    answers: int  # G
    scores: Tensor  # (B,) R(x, y)
    log_probs: Tensor  # (B, T) by the policy; as they were drawn, where the algorithm has no use for them
    reference: Tensor  # (B, T) log-probabilities by SFT

    def of_each_token(self, function: Callable[[SequenceBatch], Tensor]) -> Tensor:
        """What a function of a batch, (B, T), gives for all answers, a micro-batch at a time."""
        return of_each_token(function, self.batch, self.parts)

    def penalized(self, kl_coefficient: float) -> Tensor:
        """(B, T) reward of each token: the score on the last one, less beta k1 on every one."""
        kl = k1(self.log_probs, self.reference)
        return token_rewards(self.scores, kl, self.batch.mask, kl_coefficient=kl_coefficient)

    @property
    def divergence(self) -> float:
        """Estimate of KL(pi || pi_sft), nats a sequence: the mean over answers of the sum of k1."""
        return float((k1(self.log_probs, self.reference) * self.batch.mask).sum(dim=1).mean())


@dataclass(frozen=True, slots=True)
class Experience:
    """Answers to learn from, and what belongs to each of their tokens: `log_probs`, `reference`, `advantages`, ..."""

    batch: SequenceBatch
    tokens: dict[str, Tensor]  # (B, T) each

    def __getitem__(self, name: str) -> Tensor:
        return self.tokens[name]

    def rows(self, index: Tensor) -> "Experience":
        """Some of the answers, trimmed to the longest of them."""
        batch = self.batch.rows(index)
        width = batch.ids.shape[1]
        return Experience(batch, {name: values[index, :width] for name, values in self.tokens.items()})

    def to(self, device: torch.device) -> "Experience":
        """The same experience on `device`."""
        return Experience(self.batch.to(device), {name: to_device(t, device) for name, t in self.tokens.items()})


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch of experience, and pretraining text beside it when the mix is on."""

    experience: Experience
    first: bool  # of its iteration: the policy is still the one that sampled
    text: SequenceBatch | None = None
    text_weight: float = 0.0  # count of the step / text tokens of the step: makes the mix a mean over text tokens


class OnlineAlgorithm(nn.Module, ABC):
    """A policy, what else is trained beside it, and how it learns from its own answers."""

    def __init__(self, policy: PreTrainedModel, config: OnlineConfig) -> None:
        super().__init__()
        self.policy, self._temperature = policy, config.rollout.temperature

    @abstractmethod
    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """What the loss needs of every token, (B, T) each; `advantages` among it."""

    @abstractmethod
    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over a micro-batch of what `count` counts."""

    def count(self, batch: SequenceBatch) -> float:
        """What the loss is a mean over: the answers, unless an algorithm says otherwise."""
        return float(len(batch))

    @property
    def uses_old_log_probs(self) -> bool:
        """Whether credit or loss depend on what the policy gave the answers before it learned from any of them."""
        return True

    def score(self, micro_batch: MicroBatch, *, entropy: bool = False) -> TokenScores:
        """The current policy's scores of a micro-batch."""
        old = micro_batch.experience
        scores = token_log_probs(self.policy, old.batch, temperature=self._temperature, entropy=entropy)
        if micro_batch.first and self.uses_old_log_probs:
            _check_ratio(scores.log_probs.detach(), old["log_probs"])
        return scores


def of_each_token(function: Callable[[SequenceBatch], Tensor], batch: SequenceBatch, parts: Sequence[Part]) -> Tensor:
    """What a function of a batch, (B, T), gives for all of its rows, computed part by part."""
    values = torch.zeros(batch.ids.shape)
    found = shared_out(lambda part: function(part[1]).cpu(), parts)
    torch.clear_autocast_cache()  # of the weights of this model: nothing learns here, and the next one needs the room
    for (rows, some), of_part in zip(parts, found, strict=True):
        values[rows, : some.ids.shape[1]] = of_part
    return values


def _check_ratio(log_probs: Tensor, old_log_probs: Tensor) -> None:
    """Finds two scorings of the same answers that differ: by their shape, dropout, or weights that changed in between.

    NaN is the loop's to see.
    """
    off = float((log_probs - old_log_probs).exp().sub(1.0).abs().max())
    assert not off >= _RATIO_TOLERANCE[product_dtype(log_probs)], (
        f"probability ratio of the first minibatch is off by {off:.2g}: it was scored otherwise before"
    )
