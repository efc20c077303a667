"""DPO: the policy as its own reward model, trained on rankings (Rafailov et al. 2023; lectures 000, 002, 004).

A prompt's K answers go through the model once and give all their pairs, as in the reward model. The reference's
log-probabilities never change, so they are computed once, before training.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedTurns, RankingBatch, pad_rankings
from rlhf.models.scoring import sequence_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.preference import bradley_terry, implicit_rewards


class DpoObjective(nn.Module):
    """DPO over every pair of a ranking."""

    def __init__(self, policy: PreTrainedModel, reference: Tensor, *, beta: float, label_smoothing: float) -> None:
        """reference: (prompts, K) log pi_ref(y | x) of every answer, zero where there is none."""
        super().__init__()
        self.policy, self._reference = policy, reference
        self._beta, self._label_smoothing = beta, label_smoothing

    def forward(self, micro_batch: tuple[np.ndarray, RankingBatch]) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        rows, batch = micro_batch[0], micro_batch[1].to(self.policy.device)
        log_probs = batch.per_answer(sequence_log_probs(self.policy, batch.sequences))
        reference = self._reference[rows][:, : batch.mask.shape[1]].to(log_probs)
        rewards = implicit_rewards(log_probs, reference, beta=self._beta)
        loss, metrics = bradley_terry(rewards, batch.ranks, batch.mask, label_smoothing=self._label_smoothing)
        best, worst = _ends(batch.ranks, batch.mask)
        count = batch.mask.any(dim=1).sum()
        fixed = rewards.detach()
        return loss, metrics | {
            "chosen_reward": (fixed.gather(1, best).sum(), count),
            "rejected_reward": (fixed.gather(1, worst).sum(), count),
        }


@torch.no_grad()
def reference_log_probs(reference: PreTrainedModel, groups: Sequence[RankedTurns], batch_size: int) -> Tensor:
    """log pi_ref(y | x) of every answer of every prompt, (prompts, K), zero where there is none."""
    table = torch.zeros(len(groups), max(len(g.ranks) for g in groups))
    order = sorted(range(len(groups)), key=lambda i: max(len(t.prompt) + len(t.response) for t in groups[i].answers))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad_rankings([groups[i] for i in rows]).to(reference.device)
        values = batch.per_answer(sequence_log_probs(reference, batch.sequences)).cpu()
        table[rows, : values.shape[1]] = values
    return table


def _ends(ranks: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns, (B, 1) each, of an answer of the best and of the worst rank."""
    absent = torch.iinfo(ranks.dtype).max
    return ranks.masked_fill(~mask, absent).argmin(1, keepdim=True), ranks.masked_fill(~mask, 0).argmax(1, keepdim=True)
