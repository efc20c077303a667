"""PPO on a learned reward with a KL penalty from SFT (lecture 001, step 3; Schulman et al. 2017; Ouyang et al. 2022).

An iteration samples answers from the current policy, scores them, and learns from them for a few epochs:

    R(x, y)   score of the reward model at the answer's last token, less a penalty when the answer did not end
    r_t       -beta (log pi - log pi_sft) at every token, plus R at the last           (objectives/advantages.py)
    A_t, G_t  generalized advantage estimation with the critic's values, A whitened over the iteration
    loss      clipped surrogate + c1 clipped value loss - c2 entropy [- gamma log-likelihood of pretraining text]

The critic starts from the reward model. Everything random is a function of the seed and the iteration, so training
resumes at the end of any iteration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Turn
from rlhf.batching.order import micro_batches, rows_of_step, steps_in
from rlhf.config.training import PpoConfig
from rlhf.models.scoring import rewards, token_log_probs, token_values
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import generalized_advantages, token_rewards, whiten
from rlhf.objectives.kl import k1, k3
from rlhf.objectives.likelihood import negative_log_likelihood
from rlhf.objectives.ppo import clipped_surrogate, clipped_value_loss
from rlhf.rollouts.sampling import sample
from rlhf.training.loop import Step

# The first minibatch of an iteration is scored by the policy that sampled it, so its ratio is 1 but for rounding.
_RATIO_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """Answers of one iteration, scored; all but `batch` and `advantages` as they were when sampled. Tensors (B, T)."""

    batch: SequenceBatch
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Experience":
        """Some of the answers, trimmed to the longest of them."""
        batch = self.batch.rows(index)
        width = batch.ids.shape[1]
        others = {name: getattr(self, name)[index, :width] for name in ("log_probs", "values", "advantages", "returns")}
        return Experience(batch=batch, **others)


@dataclass(frozen=True, slots=True)
class Minibatch:
    """A micro-batch of PPO: experience, and pretraining text when the mix is on."""

    experience: Experience
    text: SequenceBatch | None
    text_weight: (
        float  # gamma * (tokens of the step / tokens of text of the step): makes the mix a mean over text tokens
    )
    first: bool  # of its iteration


class PpoObjective(nn.Module):
    """Policy and critic, and the loss of both."""

    def __init__(self, policy: PreTrainedModel, critic: PreTrainedModel, config: PpoConfig) -> None:
        super().__init__()
        self.policy, self.critic, self._config = policy, critic, config

    def forward(self, minibatch: Minibatch) -> tuple[Tensor, Metrics]:
        """Sum over the response tokens of a micro-batch."""
        config, old = self._config, minibatch.experience
        mask = old.batch.mask
        wants_entropy = config.entropy_coefficient > 0
        scores = token_log_probs(self.policy, old.batch, temperature=config.rollout.temperature, entropy=wants_entropy)
        if minibatch.first:
            _check_ratio(scores.log_probs.detach(), old.log_probs)
        surrogate, metrics = clipped_surrogate(scores.log_probs, old.log_probs, old.advantages, mask, clip=config.clip)
        value_loss, value_metrics = clipped_value_loss(
            token_values(self.critic, old.batch), old.values, old.returns, mask, clip=config.value_clip
        )
        loss = surrogate + config.value_coefficient * value_loss
        metrics |= value_metrics
        if scores.entropy is not None:
            loss = loss - config.entropy_coefficient * scores.entropy.sum()
            metrics["entropy"] = (scores.entropy.sum().detach(), mask.sum())
        if minibatch.text is not None:
            text = minibatch.text.to(self.policy.device)
            likelihood, _ = negative_log_likelihood(token_log_probs(self.policy, text).log_probs, text.mask)
            loss = loss + minibatch.text_weight * likelihood
            metrics["text_loss"] = (likelihood.detach(), text.mask.sum())
        return loss, metrics


class PpoSource:
    """Samples, scores and credits the answers that each iteration learns from."""

    def __init__(
        self,
        objective: PpoObjective,
        reference: PreTrainedModel,
        reward_model: PreTrainedModel,
        prompts: Sequence[list[int]],
        text: Sequence[Turn],
        config: PpoConfig,
        *,
        max_tokens: int,
        eos: int,
        seed: int,
    ) -> None:
        """prompts: ids. text: blocks of pretraining text for PPO-ptx, empty when its coefficient is 0."""
        self._objective, self._reference, self._reward_model = objective, reference, reward_model
        self._prompts, self._text, self._config = prompts, text, config
        self._max_tokens, self._eos, self._seed = max_tokens, eos, seed

    @property
    def steps_an_iteration(self) -> int:
        """Optimizer steps of one iteration."""
        return steps_in(self._config.rollout.prompts, self._config.loop.batch_size, self._config.epochs)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, unless the KL limit ends it."""
        return self._config.iterations * self.steps_an_iteration

    def steps(self, start: int) -> Iterator[Step]:
        """The steps from number `start`, which is the first of an iteration."""
        assert start % self.steps_an_iteration == 0, start
        for iteration in range(start // self.steps_an_iteration, self._config.iterations):
            experience, metrics = self.collect(iteration)
            if metrics["kl"] > self._config.max_kl:
                return
            yield from self._minibatches(experience, metrics, iteration)

    @torch.no_grad()
    def collect(self, iteration: int) -> tuple[Experience, dict[str, float]]:
        """Sample and score one iteration's answers."""
        config, device = self._config, self._objective.policy.device
        rows = rows_of_step(iteration, len(self._prompts), config.rollout.prompts, self._seed)
        prompts = [self._prompts[i] for i in rows]
        answers = sample(
            self._objective.policy,
            prompts,
            max_tokens=self._max_tokens,
            temperature=config.rollout.temperature,
            eos=self._eos,
            batch_size=config.rollout.batch_size,
            seed=_mix(self._seed, iteration),
        )
        batch = pad([Turn(p, a.response) for p, a in zip(prompts, answers, strict=True)]).to(device)
        unfinished = torch.tensor([not a.terminated for a in answers], device=device)
        scores = rewards(self._reward_model, batch)
        log_probs = token_log_probs(self._objective.policy, batch, temperature=config.rollout.temperature).log_probs
        reference = token_log_probs(self._reference, batch, temperature=config.rollout.temperature).log_probs
        values = token_values(self._objective.critic, batch)
        advantages, returns = generalized_advantages(
            token_rewards(
                scores - config.missing_eos_penalty * unfinished,
                k1(log_probs, reference),
                batch.mask,
                kl_coefficient=config.kl_coefficient,
            ),
            values,
            batch.mask,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
        )
        if config.whiten_advantages:
            advantages = whiten(advantages, batch.mask)
        experience = Experience(batch=batch, log_probs=log_probs, values=values, advantages=advantages, returns=returns)
        return experience, {
            "reward": float(scores.mean()),
            "kl": float((k3(log_probs, reference) * batch.mask).sum(dim=1).mean()),
            "length": batch.count / len(batch),
            "unfinished": float(unfinished.float().mean()),
        }

    def _minibatches(self, experience: Experience, metrics: dict[str, float], iteration: int) -> Iterator[Step]:
        config, answers = self._config, len(experience.batch)
        lengths = experience.batch.attention.sum(dim=1).cpu().numpy()
        for number in range(self.steps_an_iteration):
            rows = rows_of_step(number, answers, config.loop.batch_size, _mix(self._seed, iteration))
            parts = [
                experience.rows(torch.from_numpy(part).to(experience.batch.ids.device))
                for part in micro_batches(rows, lengths, config.loop.micro_batch_size)
            ]
            count = sum(p.batch.count for p in parts)
            texts = self._text_of_step(iteration * self.steps_an_iteration + number, parts)
            text_tokens = sum(t.count for t in texts if t is not None)
            weight = config.pretraining_coefficient * count / text_tokens if text_tokens else 0.0
            yield Step(
                [Minibatch(part, text, weight, first=number == 0) for part, text in zip(parts, texts, strict=True)],
                count=count,
                metrics=metrics,
                resumable=number == self.steps_an_iteration - 1,
            )

    def _text_of_step(self, step: int, parts: Sequence[Experience]) -> list[SequenceBatch | None]:
        """As many blocks of text as answers, beside each micro-batch; none when the mix is off."""
        if not self._config.pretraining_coefficient:
            return [None] * len(parts)
        rows = rows_of_step(step, len(self._text), sum(len(p.batch) for p in parts), self._seed)
        return [
            pad([self._text[i] for i in chosen]) if len(chosen) else None for chosen in np.array_split(rows, len(parts))
        ]


def _check_ratio(log_probs: Tensor, old_log_probs: Tensor) -> None:
    """The cheapest detector of a rollout that is scored otherwise than it was sampled."""
    off = float((log_probs - old_log_probs).exp().sub(1.0).abs().max())
    assert off < _RATIO_TOLERANCE, (
        f"probability ratio of the first minibatch is off by {off:.2g}: scoring differs from sampling"
    )


def _mix(seed: int, iteration: int) -> int:
    """A seed for one iteration."""
    return int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0])
