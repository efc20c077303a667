"""KTO: aligned by thumbs, of which no two need to be about the same prompt (Ethayarajh et al. 2024).

    loss   = lambda (1 - sigmoid(+-beta (h - z0))),   h = log pi(y | x) / pi_ref(y | x), + for up and - for down
    z0     = max(0, mean of h over mismatched pairs), prompts of the step with the answers to other prompts

z0 is taken once a step over the whole of it, so that neither micro-batches nor processes change it. Which answer stands
in for a prompt's own is fixed, so the reference sees every mismatched pair once, before training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.algorithms.passes import passes
from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Turn
from rlhf.batching.order import Indices
from rlhf.batching.transfer import to_device
from rlhf.config.algorithms import KtoConfig
from rlhf.models.scoring import sequence_log_probs, turn_log_probs
from rlhf.objectives import Metrics
from rlhf.objectives.kto import kahneman_tversky
from rlhf.training.step import Step, Steps


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer that was judged on its own."""

    turn: Turn
    up: bool


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """A micro-batch of judged answers."""

    sequences: SequenceBatch
    up: Tensor  # (B,) bool
    reference: Tensor  # (B,) log pi_ref(y | x)
    reference_point: float  # z0 of the step


class Kto(nn.Module):
    """KTO over judged answers."""

    def __init__(self, policy: PreTrainedModel, config: KtoConfig) -> None:
        super().__init__()
        self.policy, self._config = policy, config

    def forward(self, batch: JudgedBatch) -> tuple[Tensor, Metrics]:
        """Sum over the answers of a micro-batch."""
        config, device = self._config, self.policy.device
        log_probs = sequence_log_probs(self.policy, batch.sequences.to(device))
        return kahneman_tversky(
            log_probs - to_device(batch.reference, device),
            to_device(batch.up, device),
            reference_point=batch.reference_point,
            beta=config.beta,
            up_weight=config.up_weight,
            down_weight=config.down_weight,
        )


def mismatched(judged: Sequence[Judged], seed: int) -> list[Turn]:
    """Each prompt with an answer to another one, the same however often it is asked.

    Rows of a prompt stand side by side in a random order, and answers move on by as many rows as a prompt has at most.
    Where one prompt has more than half of all rows, some of its answers stay with it.
    """
    numbers = dict[bytes, int]()
    ids = (np.asarray(row.turn.prompt, dtype=np.int64).tobytes() for row in judged)
    prompt = np.array([numbers.setdefault(each, len(numbers)) for each in ids])
    random = np.random.default_rng(seed)
    order = np.lexsort((random.permutation(len(judged)), random.permutation(len(numbers))[prompt]))
    other = np.empty_like(order)
    other[order] = np.roll(order, np.bincount(prompt).max())
    return [Turn(row.turn.prompt, judged[int(i)].turn.response) for row, i in zip(judged, other, strict=True)]


def kto_steps(
    policy: PreTrainedModel,
    judged: Sequence[Judged],
    others: Sequence[Turn],
    reference: Tensor,
    config: KtoConfig,
    *,
    seed: int,
) -> tuple[Steps, int]:
    """The steps of `config.epochs` passes over judged answers, and their number.

    policy: the one that is trained. others: `mismatched(judged)`. reference: (2, rows) log pi_ref of the judged answers
    and of the mismatched ones.
    """

    def make(rows: Indices, parts: list[Indices]) -> Step:
        log_probs = turn_log_probs(policy, [others[i] for i in rows], config.loop.micro_batch_size)
        point = max(0.0, float((log_probs - reference[1, rows]).mean()))
        batches = [
            JudgedBatch(
                pad([judged[i].turn for i in part]),
                torch.tensor([judged[i].up for i in part]),
                reference[0, part],
                point,
            )
            for part in parts
        ]
        return Step(batches, count=len(rows), metrics={"kl": point})

    lengths = np.array([row.turn.tokens for row in judged])
    return passes(lengths, config.loop, make, epochs=config.epochs, seed=seed)
