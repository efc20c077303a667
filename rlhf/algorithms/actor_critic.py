"""Actor-critic: the baseline of REINFORCE is a value model of its own (lecture 000).

A_t    = G_t - V(s_t)                     G_t and r_t as in REINFORCE
loss   = -sum_t A_t log pi(a_t | s_t) + c1 sum_t 1/2 (V(s_t) - G_t)^2

With `gae_lambda` below 1 it bootstraps (lecture 001, tweaks): A_t is the generalized advantage, and G_t = A_t + V(s_t).
"""

from functools import partial

from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.config.algorithms import ActorCriticConfig
from rlhf.models.scoring import token_values
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import generalized_advantages
from rlhf.objectives.policy_gradient import policy_gradient, squared_error


class ActorCritic(OnlineAlgorithm):
    """Policy and critic."""

    def __init__(self, policy: PreTrainedModel, critic: PreTrainedModel, config: ActorCriticConfig) -> None:
        super().__init__(policy, config)
        self.critic, self._config = critic, config

    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Advantages, and the returns that the critic regresses on."""
        advantages, returns = generalized_advantages(
            rollouts.penalized(self._config.kl_coefficient),
            rollouts.of_each_token(partial(token_values, self.critic)),
            rollouts.batch.mask,
            discount=self._config.discount,
            gae_lambda=self._config.gae_lambda,
        )
        return {"advantages": advantages, "returns": returns}

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over answers."""
        old, batch = micro_batch.experience, micro_batch.experience.batch
        loss = policy_gradient(self.score(micro_batch).log_probs, old["advantages"], batch.mask)
        error, metrics = squared_error(token_values(self.critic, batch), old["returns"], batch.mask)
        return loss + self._config.value_coefficient * error, metrics
