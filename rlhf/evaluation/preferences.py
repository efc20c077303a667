"""How a model judges answers that people have ranked: a reward model, or a policy by what it learned."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf.batching.batches import RankedTurns, SequenceBatch, pad
from rlhf.models.machine import precision


@torch.no_grad()
def answer_scores(
    judge: Callable[[SequenceBatch], Tensor], groups: Sequence[RankedTurns], batch_size: int, device: torch.device
) -> list[np.ndarray]:
    """Scores of every prompt's answers, an array (K,) a prompt, `batch_size` prompts at a time.

    judge: gives a score to each row of a batch on `device`, (B,).
    """
    order = sorted(range(len(groups)), key=lambda i: groups[i].tokens)
    scores: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad([turn for i in rows for turn in groups[i].answers]).to(device)
        with precision(device):
            values = judge(batch).double().cpu().numpy()
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
