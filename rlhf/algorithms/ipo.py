"""IPO: DPO whose margins have a goal, so that preferences without noise are not overfitted (Azar et al. 2024).

loss   = (h_better - h_worse - 1 / (2 beta))^2 over the pairs of a ranking,   h = log pi(y | x) / pi_ref(y | x)
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.algorithms.dpo import answer_log_probs
from rlhf.batching.batches import RankedPart
from rlhf.config.algorithms import IpoConfig
from rlhf.objectives import Metrics
from rlhf.objectives.preference import identity_preference


class Ipo(nn.Module):
    """IPO over every pair of a ranking."""

    def __init__(self, policy: PreTrainedModel, reference: Tensor, config: IpoConfig) -> None:
        """reference: (prompts, K) log pi_ref(y | x) of every answer, zero where there is none."""
        super().__init__()
        self.policy, self._reference, self._config = policy, reference, config

    def forward(self, micro_batch: RankedPart) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        batch, log_probs, reference, lengths = answer_log_probs(self.policy, micro_batch, self._reference)
        log_ratios = (log_probs - reference) / (lengths if self._config.length_normalized else 1.0)
        return identity_preference(log_ratios, batch.ranks, batch.mask, beta=self._config.beta)
