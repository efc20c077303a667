"""Group robust DPO: whose loss counts how often, and that nobody is left behind."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from rlhf.algorithms.dpo import Dpo
from rlhf.algorithms.gr_dpo import GroupRobustDpo
from rlhf.batching.batches import RankedTurns, pad_rankings
from rlhf.batching.encoding import Turn
from rlhf.objectives.robust import towards_worst
from rlhf.training.step import Step
from tests.algorithms.enumerable import PROMPTS, Table
from tests.algorithms.test_wiring import agree, rankings, speaker
from tests.algorithms.tiny import PARAMS

# Of each prompt's first answer against its second: how many of a group's rankings prefer it.
PREFERRED = {"few": (0, 1, 1, 3, 1), "many": (8, 7, 5, 2, 6)}
ASKED = {"few": 3, "many": 9}
BETA = 0.5


def test_weights_move_to_the_group_that_loses_more() -> None:
    """1/4 and 3/4, of which the first loses ln 3 more: three times as much beside the other, 1/2 and 1/2."""
    losses = torch.tensor([1.0 + math.log(3.0) / 0.5, 1.0])
    found = towards_worst(torch.tensor([0.25, 0.75]).log(), losses, rate=0.5)
    torch.testing.assert_close(found.exp(), torch.tensor([0.5, 0.5]))


def robust(policy: Any, reference: torch.Tensor, groups: list[str], **changes: float) -> GroupRobustDpo:
    return GroupRobustDpo(policy, reference, groups, PARAMS.align.gr_dpo.model_copy(update=changes))


def test_a_ranking_counts_by_the_weight_of_its_group_over_its_share() -> None:
    """Three rankings of one group and one of another, which weigh 0.1 and 0.9; by hand, the second ranking's group is
    absent from the step, so that the first one's alone has a loss, 4/3 of the mean over the step."""
    (three, two), reference = rankings()
    objective = robust(speaker(), reference[[0, 1, 0, 0]], ["b", "a", "b", "b"], beta=0.2, rate=2.0)
    of_three, of_two = (
        sum(math.log1p(math.exp(-0.2 * margin)) for margin in margins) / len(margins)
        for margins in ((2.0 - 1.0, 2.0 - 4.0, 1.0 - 4.0), (0.5 + 1.0,))
    )
    objective.log_weights.copy_(torch.tensor([0.9, 0.1]).log())
    loss, metrics = objective((np.arange(2), pad_rankings([three, two])))
    agree(loss, 0.1 / 0.75 * of_three + 0.9 / 0.25 * of_two)
    assert metrics["margin"][1] == 4

    step = Step(
        [(np.array([0]), pad_rankings([three])), (np.array([2]), pad_rankings([three]))], count=2, metrics={"kl": 3.0}
    )
    (told,) = objective.weighing(lambda start: iter([step][start:]))(0)
    assert told.micro_batches is step.micro_batches
    gained = 0.1 * math.exp(2.0 * 4 / 3 * of_three)
    assert told.metrics == pytest.approx(
        {"kl": 3.0, "weight/a": 0.9 / (0.9 + gained), "weight/b": gained / (0.9 + gained), "loss/b": of_three}, rel=1e-5
    )
    agree(objective.log_weights[1].exp(), gained / (0.9 + gained))


def test_what_is_not_finite_moves_no_weight() -> None:
    (three, _), reference = rankings()
    objective = robust(speaker(), reference[[0, 0]] * math.nan, ["a", "b"])
    step = Step([(np.array([0]), pad_rankings([three]))], count=1)
    next(objective.weighing(lambda _: iter([step]))(0))
    assert objective.log_weights.exp().tolist() == pytest.approx([0.5, 0.5])


def everything() -> tuple[list[RankedTurns], list[str]]:
    """All rankings, and the group of each."""
    made, groups = [], list[str]()
    for group, preferred in PREFERRED.items():
        for prompt, first in enumerate(preferred):
            answers = (Turn([prompt], [0]), Turn([prompt], [1]))
            made += [RankedTurns(answers, (1, 2) if i < first else (2, 1)) for i in range(ASKED[group])]
            groups += [group] * ASKED[group]
    return made, groups


def losses(margins: np.ndarray) -> np.ndarray:
    """DPO's loss on the rankings of each group, of a policy with these margins, (PROMPTS,)."""
    shares = np.array([np.array(PREFERRED[group]) / ASKED[group] for group in PREFERRED])
    return (shares * np.logaddexp(0.0, -margins) + (1.0 - shares) * np.logaddexp(0.0, margins)).mean(axis=1)


def trained(robustly: bool) -> np.ndarray:
    """Margins after training on all rankings at once."""
    made, groups = everything()
    policy: Any = Table(torch.zeros(PROMPTS, 2))
    reference, step = torch.full((len(made), 2), math.log(0.5)), Step([(np.arange(len(made)), pad_rankings(made))], 60)

    def steps(_: int) -> Iterator[Step]:
        while True:
            yield step

    objective: nn.Module = Dpo(policy, reference, PARAMS.align.dpo.model_copy(update={"beta": BETA}))
    if robustly:
        objective = robust(policy, reference, groups, beta=BETA, rate=0.1)
        steps = objective.weighing(steps)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for one in islice(steps(0), 600):
        optimizer.zero_grad()
        (objective(one.micro_batches[0])[0] / one.count).backward()
        optimizer.step()
    log_probs = policy.log_probs().detach().numpy()
    return BETA * (log_probs[:, 0] - log_probs[:, 1])


def test_the_worst_loss_of_a_group_is_as_low_as_any_policy_could_have_it() -> None:
    """min over margins of the larger loss, by a solver: below DPO's, which three quarters of the rankings decide."""
    best = minimize(
        lambda x: x[-1],
        np.array([0.0] * PROMPTS + [1.0]),
        constraints={"type": "ineq", "fun": lambda x: x[-1] - losses(x[:-1])},
        tol=1e-10,
    )
    assert best.success
    fair, mean = losses(trained(robustly=True)), losses(trained(robustly=False))
    assert fair.max() == pytest.approx(best.fun, abs=2e-3)
    assert mean.max() > best.fun + 0.1, (mean, best.fun)
