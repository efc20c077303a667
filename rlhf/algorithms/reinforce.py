"""REINFORCE: raise the log-probability of what was better than expected (Williams 1992; lecture 001).

    r_t    = -beta (log pi - log pi_sft) at every token, plus R(x, y) at the last
    G_t    = r_t + gamma r_{t+1} + ...        the reward to go; with `credit: trajectory` G_1 at every token
    A_t    = G_t - b                          the baseline b: none, the mean return of the batch, or learned
    loss   = -sum_t A_t log pi(a_t | s_t)     one step an iteration: there is no ratio to correct for an older policy

A learned baseline is linear in the policy's own hidden state (Ranzato et al. 2016): that of the prompt, one for the
whole answer, or that of each token. It does not train the policy's body. The batch mean (Dayan 1990) holds the answer's
own return, so it shrinks the gradient by 1 - 1/B; the other baselines leave its mean as it is, and so does it whether a
token answers for what came before it (lecture 001, causality): that is noise.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.batching.batches import SequenceBatch
from rlhf.config.algorithms import ReinforceConfig
from rlhf.models.scoring import linear_head, linear_values, states_before
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import first_token, generalized_advantages, on_tokens
from rlhf.objectives.policy_gradient import policy_gradient, squared_error


class Reinforce(OnlineAlgorithm):
    """The policy, and the linear baseline when it is learned."""

    def __init__(self, policy: PreTrainedModel, config: ReinforceConfig) -> None:
        super().__init__(policy, config)
        self._config = config
        self._learned = config.baseline in ("sequence", "token")
        if self._learned:
            self.baseline = linear_head(policy)

    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Advantages, and the returns that a learned baseline regresses on."""
        mask, rewards = rollouts.batch.mask, rollouts.penalized(self._config.kl_coefficient)
        discount, nothing = self._config.discount, torch.zeros_like(rewards)
        _, returns = generalized_advantages(rewards, nothing, mask, discount=discount, gae_lambda=1.0)
        if self._config.credit == "trajectory":
            returns = (returns * first_token(mask)).sum(dim=1, keepdim=True) * mask
        baseline = nothing
        if self._config.baseline == "batch":
            baseline = returns[first_token(mask)].mean() * mask
        elif self._learned:
            baseline = rollouts.of_each_token(lambda some: self._values(some, states_before(self.policy, some)))
        return {"advantages": (returns - baseline) * mask, "returns": returns}

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over answers."""
        old, batch = micro_batch.experience, micro_batch.experience.batch
        scores = self.score(micro_batch)
        loss = policy_gradient(scores.log_probs, old["advantages"], batch.mask)
        if not self._learned:
            return loss, {}
        seen = first_token(batch.mask) if self._config.baseline == "sequence" else batch.mask
        error, metrics = squared_error(self._values(batch, scores.states.detach()), old["returns"], seen)
        return loss + error, metrics

    def _values(self, batch: SequenceBatch, states: Tensor) -> Tensor:
        """(B, T) the learned baseline. states: (N, d) before the counted tokens; before the first, the prompt's."""
        values = linear_values(self.baseline, states, batch)
        if self._config.baseline == "token":
            return values
        return on_tokens((values * first_token(batch.mask)).sum(dim=1), batch.mask)
