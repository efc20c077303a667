"""Pretraining and supervised fine-tuning: maximise the likelihood of given tokens (lecture 001, step 1)."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.algorithms.passes import passes
from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Ids, Turn
from rlhf.batching.order import Indices
from rlhf.config.training import LoopConfig
from rlhf.models.scoring import token_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.likelihood import negative_log_likelihood
from rlhf.training.step import Step, Steps


class LikelihoodObjective(nn.Module):
    """Negative log-likelihood of the tokens that count: the response's in SFT, all but the first in pretraining."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, Metrics]:
        """Sum over the counted tokens of a micro-batch."""
        batch = batch.to(self.policy.device)
        return negative_log_likelihood(token_log_probs(self.policy, batch).log_probs, batch.mask)


def supervised_steps(turns: Sequence[Turn], config: LoopConfig, *, epochs: float, seed: int) -> tuple[Steps, int]:
    """The steps of `epochs` passes over `turns`, and their number."""

    def make(rows: Indices, parts: list[Indices]) -> Step:
        batches = [pad([turns[i] for i in part]) for part in parts]
        return Step(batches, count=sum(batch.count for batch in batches))

    return passes(np.array([turn.tokens for turn in turns]), config, make, epochs=epochs, seed=seed)


def pack(documents: Sequence[Ids], length: int) -> list[Turn]:
    """Documents end to end, cut into blocks of `length` tokens; every token of a block but its first is learned."""
    stream = np.concatenate([np.asarray(d, dtype=np.int64) for d in documents])
    blocks = [stream[i : i + length].tolist() for i in range(0, len(stream), length)]
    return [Turn(block[:1], block[1:]) for block in blocks if len(block) > 1]
