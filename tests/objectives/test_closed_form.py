"""Lecture 004: reward less beta KL is greatest at pi* = pi_ref exp(r / beta) / Z. Worlds small enough to enumerate."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.objectives.advantages import generalized_advantages, token_rewards
from rlhf.objectives.kl import k1
from rlhf.objectives.ppo import clipped_surrogate
from rlhf.objectives.preference import bradley_terry, implicit_rewards

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
        loss = bradley_terry(rewards, ranks, mask, label_smoothing=against)[0] / len(pairs)  # type: ignore[arg-type]
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
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


def surrogate(world: World, logits: Tensor, old: Tensor, actions: Tensor, baseline: float) -> Tensor:
    """PPO's loss, summed over sampled responses, each an answer of one token whose value is `baseline`."""
    mask = torch.ones(len(actions), 1, dtype=torch.bool)
    old_log_probs, reference = old[actions, None], world.reference[actions, None]
    penalized = token_rewards(world.reward[actions], k1(old_log_probs, reference), mask, kl_coefficient=world.beta)
    values = torch.full_like(penalized, baseline)
    advantages, _ = generalized_advantages(penalized, values, mask, discount=1.0, gae_lambda=0.95)
    return clipped_surrogate(logits.log_softmax(0)[actions, None], old_log_probs, advantages, mask, clip=0.2)[0]


def value(world: World, log_probs: Tensor) -> Tensor:
    """E[r] - beta KL of a policy: what PPO climbs, and the best baseline that looks at no action."""
    return (log_probs.exp() * (world.reward - world.beta * (log_probs - world.reference))).sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "beta"), [(3, 0.3), (10, 0.5), (50, 1.0)])
def test_ppo_with_the_penalty_in_the_reward_finds_the_optimum(n: int, beta: float, seed: int) -> None:
    world = World(n, beta, seed)
    logits = world.reference.clone().requires_grad_()
    iterations = 150
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - iteration / iterations)
        old = logits.detach().log_softmax(0)
        actions = world.sample(old.exp(), 2048)
        for _ in range(2):
            optimizer.zero_grad()
            (surrogate(world, logits, old, actions, float(value(world, old))) / len(actions)).backward()
            optimizer.step()
    assert world.distance(logits) < 0.02


def test_the_policy_gradient_is_the_exact_one_and_a_baseline_lowers_its_variance() -> None:
    """By enumeration. The baseline leaves the mean as it is, and divides the variance by nine or more."""
    world = World(6, 0.5, 0)
    world.reward += 2.0  # a common offset of rewards, which a baseline takes away
    logits = torch.randn(6, generator=world.generator, dtype=torch.float64).requires_grad_()
    old = logits.detach().log_softmax(0)
    exact = torch.autograd.grad(value(world, logits.log_softmax(0)), logits)[0]

    variances = []
    for baseline in (0.0, float(value(world, old))):
        each = torch.stack(
            [
                -torch.autograd.grad(surrogate(world, logits, old, torch.tensor([a]), baseline), logits)[0]
                for a in range(6)
            ]
        )
        mean = old.exp() @ each
        torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12)
        variances.append(float((old.exp() @ (each - mean).square()).sum()))
    assert variances[1] < variances[0] / 9
