"""How a reward model judges answers that people have ranked."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from rlhf.batching.batches import RankedTurns, pad
from rlhf.models.machine import precision
from rlhf.models.scoring import rewards


@torch.no_grad()
def reward_scores(model: PreTrainedModel, groups: Sequence[RankedTurns], batch_size: int) -> list[np.ndarray]:
    """Scores of every prompt's answers, an array (K,) a prompt, `batch_size` prompts at a time."""
    order = sorted(range(len(groups)), key=lambda i: groups[i].tokens)
    scores: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad([turn for i in rows for turn in groups[i].answers]).to(model.device)
        with precision(model.device):
            values = rewards(model, batch).double().cpu().numpy()
        scores.update(zip(rows, np.split(values, np.cumsum([len(groups[i].ranks) for i in rows])[:-1]), strict=True))
    return [scores[i] for i in range(len(groups))]


def untied_pairs(
    groups: Sequence[RankedTurns], scores: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of answers that people did not call equal.

    Returns margins r_better - r_worse, a number of each pair's prompt, which several rankings may have, and how many
    tokens longer the better answer is; each (N,).
    """
    margins, prompts, longer, numbers = [], [], [], dict[bytes, int]()
    for group, values in zip(groups, scores, strict=True):
        asked = np.asarray(group.answers[0].prompt, dtype=np.int64).tobytes()
        prompt = numbers.setdefault(asked, len(numbers))
        for i, rank in enumerate(group.ranks):
            for j, other in enumerate(group.ranks):
                if rank < other:
                    margins.append(values[i] - values[j])
                    prompts.append(prompt)
                    longer.append(len(group.answers[i].response) - len(group.answers[j].response))
    return np.array(margins), np.array(prompts, dtype=np.int64), np.array(longer)
