"""Steps over ranked answers, for the reward model and DPO: a prompt and all its pairs are one batch element.

Ouyang et al. 2022, section 3.5: taking the pairs apart costs K - 1 times as much and overfits.
"""

from collections.abc import Sequence

import numpy as np

from rlhf.algorithms.passes import passes
from rlhf.batching.batches import RankedTurns, pad_rankings
from rlhf.batching.order import Indices
from rlhf.config.training import LoopConfig
from rlhf.training.step import Step, Steps


def ranking_steps(groups: Sequence[RankedTurns], config: LoopConfig, *, epochs: float, seed: int) -> tuple[Steps, int]:
    """The steps of `epochs` passes over prompts with their ranked answers, and their number. A micro-batch is a
    RankedPart."""

    def make(rows: Indices, parts: list[Indices]) -> Step:
        return Step([(part, pad_rankings([groups[i] for i in part])) for part in parts], count=len(rows))

    return passes(np.array([group.tokens for group in groups]), config, make, epochs=epochs, seed=seed)
