"""RLOO: REINFORCE whose baseline is the mean of the other answers to the same prompt (Ahmadian et al. 2024).

R_i    = R(x, y_i) - beta sum_t k1        one reward an answer, the KL penalty inside
A_i    = R_i - mean of R_j, j != i        on every token of the answer
loss   = -sum_t A_i log pi(a_t | s_t)     one step an iteration
"""

from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.config.algorithms import RlooConfig
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import leave_one_out, on_tokens
from rlhf.objectives.policy_gradient import policy_gradient


class Rloo(OnlineAlgorithm):
    """The policy alone."""

    def __init__(self, policy: PreTrainedModel, config: RlooConfig) -> None:
        super().__init__(policy, config)
        self._kl_coefficient = config.kl_coefficient

    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Advantages."""
        rewards = rollouts.penalized(self._kl_coefficient).sum(dim=1)
        return {"advantages": on_tokens(leave_one_out(rewards, rollouts.answers), rollouts.batch.mask)}

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over answers."""
        old = micro_batch.experience
        return policy_gradient(self.score(micro_batch).log_probs, old["advantages"], old.batch.mask), {}
