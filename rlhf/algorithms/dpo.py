"""DPO: the policy as its own reward model, trained on rankings (Rafailov et al. 2023; lectures 000, 002, 004).

    loss   = Bradley-Terry over the pairs of a ranking, of r = beta log pi(y | x) / pi_ref(y | x)
             [+ alpha times the likelihood of the best answer, a token's mean] (Pang et al. 2024)

A prompt's K answers go through the model once and give all their pairs, as in the reward model. The reference's
log-probabilities never change, so they are computed once, before training.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedPart, RankedTurns, RankingBatch
from rlhf.batching.transfer import to_device
from rlhf.config.algorithms import DpoConfig
from rlhf.models.scoring import scored, sequence_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.preference import bradley_terry, implicit_rewards


class Dpo(nn.Module):
    """DPO over every pair of a ranking."""

    def __init__(self, policy: PreTrainedModel, reference: Tensor, config: DpoConfig) -> None:
        """reference: (prompts, K) log pi_ref(y | x) of every answer, zero where there is none."""
        super().__init__()
        self.policy, self._reference, self._config = policy, reference, config

    def forward(self, micro_batch: RankedPart) -> tuple[Tensor, Metrics]:
        """Sum over the prompts of a micro-batch."""
        config = self._config
        batch, log_probs, reference, lengths = answer_log_probs(self.policy, micro_batch, self._reference)
        each = lengths if config.length_normalized else 1.0
        rewards = implicit_rewards(log_probs, reference, beta=config.beta) / each
        loss, metrics = bradley_terry(rewards, batch.ranks, batch.mask, label_smoothing=config.label_smoothing)
        best, worst = _ends(batch.ranks, batch.mask)
        if config.sft_coefficient:
            likelihood = -(log_probs / lengths).gather(1, best).sum()
            loss = loss + config.sft_coefficient * likelihood
        count, fixed = batch.mask.any(dim=1).sum(), rewards.detach()
        return loss, metrics | {
            "chosen_reward": (fixed.gather(1, best).sum(), count),
            "rejected_reward": (fixed.gather(1, worst).sum(), count),
        }


def answer_log_probs(
    policy: PreTrainedModel, micro_batch: RankedPart, reference: Tensor
) -> tuple[RankingBatch, Tensor, Tensor, Tensor]:
    """A micro-batch on the policy's device; log pi(y | x), log pi_ref(y | x) and the number of tokens of each of its
    answers, (B, K) each.

    Lengths are 1 where there is no answer. reference: log pi_ref of all rankings, (prompts, K or more).
    """
    rows, batch = micro_batch[0], micro_batch[1].to(policy.device)
    log_probs = batch.per_answer(sequence_log_probs(policy, batch.sequences))
    lengths = batch.per_answer(batch.sequences.mask.sum(dim=1).to(log_probs)).clamp(min=1.0)
    return batch, log_probs, to_device(reference[rows, : batch.mask.shape[1]], log_probs.device), lengths


def reference_log_probs(reference: PreTrainedModel, groups: Sequence[RankedTurns], batch_size: int) -> Tensor:
    """log pi_ref(y | x) of every answer of every prompt, (prompts, K), zero where there is none."""
    answers = [group.answers for group in groups]
    each = scored(partial(sequence_log_probs, reference), answers, batch_size, reference.device)
    return pad_sequence(each, batch_first=True)


def _ends(ranks: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns, (B, 1) each, of an answer of the best and of the worst rank."""
    absent = torch.iinfo(ranks.dtype).max
    return ranks.masked_fill(~mask, absent).argmin(1, keepdim=True), ranks.masked_fill(~mask, 0).argmax(1, keepdim=True)
