"""How a reward model judges answers that people have ranked."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedTurns, pad
from rlhf.models.scoring import rewards


@torch.no_grad()
def reward_scores(model: PreTrainedModel, groups: Sequence[RankedTurns], batch_size: int) -> list[np.ndarray]:
    """Scores of every prompt's answers, an array (K,) a prompt."""
    turns = [t for g in groups for t in g.answers]
    order = sorted(range(len(turns)), key=lambda i: len(turns[i].prompt) + len(turns[i].response))
    scores = np.zeros(len(turns))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores[rows] = rewards(model, pad([turns[i] for i in rows]).to(model.device)).cpu().numpy()
    return np.split(scores, np.cumsum([len(g.ranks) for g in groups])[:-1])


def untied_pairs(
    groups: Sequence[RankedTurns], scores: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of answers that people did not call equal.

    Returns margins r_better - r_worse, the index of each pair's prompt, and how many tokens longer the better answer
    is; each (N,).
    """
    margins, prompts, longer = [], [], []
    for index, (group, values) in enumerate(zip(groups, scores, strict=True)):
        for i, rank in enumerate(group.ranks):
            for j, other in enumerate(group.ranks):
                if rank < other:
                    margins.append(values[i] - values[j])
                    prompts.append(index)
                    longer.append(len(group.answers[i].response) - len(group.answers[j].response))
    return np.array(margins), np.array(prompts, dtype=np.int64), np.array(longer)
