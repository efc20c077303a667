"""Lecture 004: reward less beta KL is greatest at pi* = pi_ref exp(r / beta) / Z, and preferences suffice to find it.

The online algorithms are held to the same in tests/algorithms/test_closed_form.py.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.objectives.kto import kahneman_tversky
from rlhf.objectives.preference import bradley_terry, identity_preference, implicit_rewards

SEEDS = range(5)


class World:
    """One prompt with `n` responses of one token; the policy is a table of logits."""

    def __init__(self, n: int, beta: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.n, self.beta, self.generator = n, beta, generator
        self.reward = torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1
        self.reference = torch.randn(n, generator=generator, dtype=torch.float64).log_softmax(0)
        self.optimum = (self.reference + self.reward / beta).softmax(0)

    def sample(self, probabilities: Tensor, count: int) -> Tensor:
        return torch.multinomial(probabilities, count, replacement=True, generator=self.generator)

    def distance(self, logits: Tensor) -> float:
        """Total variation between the policy and the optimum."""
        return float((logits.detach().softmax(0) - self.optimum).abs().sum() / 2)


def fit_dpo(world: World, pairs: Tensor, first_wins: Tensor) -> Tensor:
    """Minimise the loss of DPO over the logits. pairs: (N, 2); first_wins: (N,) share of judgements for the first."""
    logits = world.reference.clone().requires_grad_()
    ranks, mask = torch.tensor([[1, 2]]).expand(len(pairs), 2), torch.ones(len(pairs), 2, dtype=torch.bool)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        rewards = implicit_rewards(logits.log_softmax(0), world.reference, beta=world.beta)[pairs]
        against = (1.0 - first_wins)[:, None, None]  # label smoothing, a pair its own
        loss = bradley_terry(rewards, ranks, mask, label_smoothing=against)[0] / len(pairs)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "beta"), [(3, 0.1), (3, 1.0), (10, 0.3), (50, 0.3), (50, 1.0)])
def test_dpo_on_exact_preferences_finds_the_optimum(n: int, beta: float, seed: int) -> None:
    world = World(n, beta, seed)
    pairs = torch.tensor(list(combinations(range(n), 2)))
    first_wins = (world.reward[pairs[:, 0]] - world.reward[pairs[:, 1]]).sigmoid()
    assert world.distance(fit_dpo(world, pairs, first_wins)) < 1e-3


def test_dpo_on_finite_preferences_nears_the_optimum_as_one_over_the_root_of_their_number() -> None:
    sizes, errors = [500, 2000, 8000, 32000], []
    for size in sizes:
        distances = []
        for seed in SEEDS:
            world = World(5, 0.5, seed)
            pairs = torch.stack([torch.randperm(5, generator=world.generator)[:2] for _ in range(size)])
            chance = (world.reward[pairs[:, 0]] - world.reward[pairs[:, 1]]).sigmoid()
            judgements = torch.bernoulli(chance, generator=world.generator)
            distances.append(world.distance(fit_dpo(world, pairs, judgements)))
        errors.append(np.mean(distances))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35
    assert errors[-1] < 0.02


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [3, 20])
def test_ipo_finds_the_optimum_of_the_share_of_answers_that_an_answer_beats(n: int, seed: int) -> None:
    """Azar et al. 2024, Eq. 7 with the identity: the reward is p(y) = E_{y'}[P(y preferred to y')] in place of r."""
    world, beta = World(n, 0.3, seed), 0.3
    beats = (world.reward[:, None] - world.reward[None, :]).sigmoid()
    optimum = (world.reference + beats.mean(dim=1) / beta).softmax(0)
    logits = world.reference.clone().requires_grad_()
    pairs = torch.tensor([(i, j) for i in range(n) for j in range(n) if i != j])
    ranks, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        ratios = (logits.log_softmax(0) - world.reference)[pairs]
        each = [identity_preference(r[None], ranks, mask, beta=beta)[0] for r in ratios]
        loss = (torch.stack(each) * beats[pairs[:, 0], pairs[:, 1]]).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float((logits.detach().softmax(0) - optimum).abs().sum() / 2) < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_kto_shares_out_by_how_many_more_than_half_approve(seed: int) -> None:
    """It has an optimum of its own. With z0 held fixed in the gradient and beta small, the loss is

        -sum_y (2 u(y) - 1) log pi(y),   u(y) the share of judges who approve of y,

    for answers shown equally often: what fewer than half approve of gets nothing, and the reference has no say.
    Here twenty judges see each.
    """
    world = World(6, 0.1, seed)
    approval = torch.tensor([0.9, 0.6, 0.55, 0.45, 0.4, 0.1], dtype=torch.float64)
    optimum = torch.tensor([0.4, 0.1, 0.05, 0.0, 0.0, 0.0], dtype=torch.float64) / 0.55
    logits = world.reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    shown = torch.arange(6).repeat_interleave(20)
    up = (torch.arange(20) < 20 * approval[:, None] - 0.5).ravel()
    for _ in range(1500):
        optimizer.zero_grad()
        log_ratios = logits.log_softmax(0) - world.reference
        kl = float((logits.softmax(0) * log_ratios).detach().sum())
        loss, _ = kahneman_tversky(log_ratios[shown], up, reference_point=kl, beta=0.1, up_weight=1.0, down_weight=1.0)
        (loss / 20).backward()
        optimizer.step()
    assert float((logits.detach().softmax(0) - optimum).abs().sum() / 2) < 0.005
