"""The comparisons by which a model is measured that judges answers: a reward model, or a policy by what it learned."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from rlhf.batching.batches import RankedTurns


def untied_pairs(groups: Sequence[RankedTurns], scores: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of answers that people did not call equal. scores: of each ranking's answers, (K,).

    Returns margins r_better - r_worse, a number of each pair's prompt, which several rankings may have, and how many
    tokens longer the better answer is; each (N,).
    """
    margins, prompts, longer, numbers = [], [], [], dict[bytes, int]()
    for group, found in zip(groups, scores, strict=True):
        values = found.tolist()
        asked = np.asarray(group.answers[0].prompt, dtype=np.int64).tobytes()
        prompt = numbers.setdefault(asked, len(numbers))
        for i, rank in enumerate(group.ranks):
            for j, other in enumerate(group.ranks):
                if rank < other:
                    margins.append(values[i] - values[j])
                    prompts.append(prompt)
                    longer.append(len(group.answers[i].response) - len(group.answers[j].response))
    return np.array(margins), np.array(prompts, dtype=np.int64), np.array(longer)
