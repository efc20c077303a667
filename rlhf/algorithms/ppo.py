"""PPO on a learned reward with a KL penalty from SFT (lectures 000, 001; Schulman et al. 2017; Ouyang et al. 2022).

    r_t       -beta (log pi - log pi_sft) at every token, plus R(x, y) at the last     (objectives/advantages.py)
    A_t, G_t  generalized advantage estimation with the critic's values, A whitened over the iteration
    loss      clipped surrogate + c1 clipped value loss - c2 entropy [- gamma log-likelihood of pretraining text]

The KL term may stand in the loss instead of the reward, and its coefficient may follow a target. The critic is a model
that starts from the reward model, or a linear head on the policy's last hidden state, which it then shares and trains.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.batching.batches import SequenceBatch
from rlhf.config.algorithms import PpoConfig
from rlhf.models.scoring import linear_head, linear_values, states_before, token_log_probs, token_values
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import generalized_advantages, whiten
from rlhf.objectives.kl import adapted, kl_loss
from rlhf.objectives.likelihood import negative_log_likelihood
from rlhf.objectives.ppo import clipped_surrogate, clipped_value_loss


class Ppo(OnlineAlgorithm):
    """Policy and critic."""

    kl_coefficient: Tensor  # beta, which an adaptive penalty moves; with the weights in a checkpoint
    applied: Tensor  # that of the iteration which is learned from

    def __init__(self, policy: PreTrainedModel, critic: PreTrainedModel | None, config: PpoConfig) -> None:
        """critic: None puts a linear head on the policy in its place."""
        super().__init__(policy, config)
        self._config, self.critic = config, critic
        if critic is None:
            self.value_head = linear_head(policy)
        self.register_buffer("kl_coefficient", torch.tensor(config.kl_coefficient, dtype=torch.float64))
        self.register_buffer("applied", self.kl_coefficient.clone(), persistent=False)

    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Advantages, the critic's values, and the returns it regresses on."""
        config, batch = self._config, rollouts.batch
        in_reward = config.kl_placement == "reward"
        self.applied.copy_(self.kl_coefficient)
        rewards = rollouts.penalized(float(self.applied) if in_reward else 0.0)
        self._adapt(rollouts)
        if not in_reward:
            self.applied.copy_(self.kl_coefficient)
        values = rollouts.of_each_token(self._values)
        advantages, returns = generalized_advantages(
            rewards,
            values,
            batch.mask,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
        )
        if config.whiten_advantages:
            advantages = whiten(advantages, batch.mask)
        return {"advantages": advantages, "values": values, "returns": returns}

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over the response tokens of a micro-batch."""
        config, old, batch = self._config, micro_batch.experience, micro_batch.experience.batch
        scores = self.score(micro_batch, entropy=config.entropy_coefficient > 0)
        loss, metrics = clipped_surrogate(
            scores.log_probs, old["log_probs"], old["advantages"], batch.mask, clip=config.clip, clip_high=config.clip
        )
        value_loss, value_metrics = clipped_value_loss(
            self._values(batch, scores.states), old["values"], old["returns"], batch.mask, clip=config.value_clip
        )
        loss, metrics = loss + config.value_coefficient * value_loss, metrics | value_metrics
        if config.kl_placement != "reward":
            divergence, kl_metrics = kl_loss(
                scores.log_probs, old["log_probs"], old["reference"], batch.mask, estimator=config.kl_placement
            )
            loss, metrics = loss + self.applied.to(divergence) * divergence, metrics | kl_metrics
        if config.kl_target is not None:
            metrics["kl_coefficient"] = (self.applied.clone(), torch.ones_like(self.applied))
        if scores.entropy is not None:
            loss = loss - config.entropy_coefficient * scores.entropy.sum()
            metrics["entropy"] = (scores.entropy.sum().detach(), batch.mask.sum())
        if micro_batch.text is not None:
            text = micro_batch.text.to(self.policy.device)
            likelihood, _ = negative_log_likelihood(token_log_probs(self.policy, text).log_probs, text.mask)
            loss = loss + config.pretraining_coefficient * micro_batch.text_weight * likelihood
            metrics["text_loss"] = (likelihood.detach(), text.mask.sum())
        return loss, metrics

    def count(self, batch: SequenceBatch) -> float:
        """Response tokens."""
        return float(batch.count)

    def _values(self, batch: SequenceBatch, states: Tensor | None = None) -> Tensor:
        """(B, T). states: (N, d) of the policy before the counted tokens, where they are known already."""
        if self.critic is not None:
            return token_values(self.critic, batch)
        states = states_before(self.policy, batch) if states is None else states
        return linear_values(self.value_head, states, batch)

    def _adapt(self, rollouts: Rollouts) -> None:
        """Move the KL coefficient towards where the divergence of these answers would be the target: in the reward of
        the next iteration, and of this one where it is in the loss."""
        if self._config.kl_target is None:
            return
        coefficient = adapted(
            float(self.kl_coefficient),
            rollouts.divergence,
            target=self._config.kl_target,
            answers=len(rollouts.batch),
            horizon=self._config.kl_horizon,
        )
        self.kl_coefficient.fill_(coefficient)
