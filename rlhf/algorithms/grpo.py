"""GRPO: PPO's ratio and clip with the group of a prompt's answers in place of a critic (Shao et al. 2024).

    A_i    = (R_i - mean of the group) / its standard deviation           on every token of answer i
    loss   = clipped surrogate + beta KL(pi || pi_sft), in the loss, a mean over tokens as `mean_over` says:

    answer     of each answer, then over answers: the first form; a token of a long answer weighs less
    token      over all tokens of the step (DAPO, Yu et al. 2025)
    constant   over answers, each divided by the longest length allowed (Dr. GRPO, Liu et al. 2025)

Where an iteration is one step, the ratio is 1 before the gradient is taken: pi_old is pi, and is not asked for apart.

Dr. GRPO is `normalize: false` with `mean_over: constant`; DAPO has `mean_over: token`, a larger `clip_high` and no KL.
"""

from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms.online import MicroBatch, OnlineAlgorithm, Rollouts
from rlhf.batching.batches import SequenceBatch
from rlhf.config.algorithms import GrpoConfig
from rlhf.objectives import Metrics
from rlhf.objectives.advantages import group_relative, on_tokens
from rlhf.objectives.kl import kl_loss
from rlhf.objectives.ppo import clipped_surrogate


class Grpo(OnlineAlgorithm):
    """The policy alone."""

    def __init__(self, policy: PreTrainedModel, config: GrpoConfig, *, max_tokens: int) -> None:
        """max_tokens: the longest answer allowed."""
        super().__init__(policy, config)
        self._config, self._max_tokens = config, max_tokens

    def credit(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Advantages."""
        advantages = group_relative(rollouts.scores, rollouts.answers, normalize=self._config.normalize)
        return {"advantages": on_tokens(advantages, rollouts.batch.mask)}

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """Sum over answers, or over tokens with `mean_over: token`."""
        config, old, mask = self._config, micro_batch.experience, micro_batch.experience.batch.mask
        log_probs, weights = self.score(micro_batch).log_probs, self._weights(mask)
        old_log_probs = old["log_probs"] if self.uses_old_log_probs else log_probs.detach()
        surrogate, metrics = clipped_surrogate(
            log_probs, old_log_probs, old["advantages"] * weights, mask, clip=config.clip, clip_high=config.clip_high
        )
        divergence, kl_metrics = kl_loss(
            log_probs, old_log_probs, old["reference"], weights, estimator=config.kl_estimator
        )
        if not self.uses_old_log_probs:
            gap = ((old["log_probs"] - old_log_probs) * mask).abs().sum()
            metrics["sampler_gap"] = (gap, mask.sum())
        return surrogate + config.kl_coefficient * divergence, metrics | kl_metrics

    @property
    def uses_old_log_probs(self) -> bool:
        """For the ratio, once the policy has moved."""
        return not self._config.one_step

    def count(self, batch: SequenceBatch) -> float:
        """Tokens with `mean_over: token`, else answers."""
        return float(batch.count if self._config.mean_over == "token" else len(batch))

    def _weights(self, mask: Tensor) -> Tensor:
        """(B, T) what each token weighs in the sum."""
        match self._config.mean_over:
            case "answer":
                return mask / mask.sum(dim=1, keepdim=True)
            case "constant":
                return mask / self._max_tokens
            case _:
                return mask.float()
