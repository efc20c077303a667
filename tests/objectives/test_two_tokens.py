"""Where the KL penalty stands matters once answers have two tokens: only inside the reward does a token answer for what
it does to the divergence of the next.

The expectation over the policy's answers is taken over all of them, so that nothing is sampled.
"""

import pytest
import torch
from torch import Tensor

from rlhf.objectives.advantages import generalized_advantages, token_rewards
from rlhf.objectives.kl import kl_loss
from rlhf.objectives.ppo import clipped_surrogate

V, BETA = 4, 0.5
PAIRS = torch.cartesian_prod(torch.arange(V), torch.arange(V))  # all answers (V^2, 2)
MASK = torch.ones(V * V, 2, dtype=torch.bool)


def log_probs(first: Tensor, second: Tensor) -> Tensor:
    """Of each token of every answer, (V^2, 2). first: logits (V,). second: (V, V), a row after each first token."""
    begin, go_on = PAIRS.T
    return torch.stack([first.log_softmax(0)[begin], second.log_softmax(1)[begin, go_on]], dim=1)


def distance_from_optimum(placement: str) -> float:
    """Total variation between what is learned and pi* = pi_sft exp(R / beta) / Z."""
    generator = torch.Generator().manual_seed(0)
    first, second, reward = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((V,), (V, V), (V * V,))
    )
    sft = log_probs(first, second)
    best = (sft.sum(dim=1) + reward / BETA).softmax(dim=0)
    learned = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    optimizer = torch.optim.Adam(learned, lr=0.1)
    for _ in range(400):
        now = log_probs(*learned)
        old = now.detach()
        likely = old.sum(dim=1).exp()[:, None]  # each answer counts as often as the policy gives it
        in_reward = BETA if placement == "reward" else 0.0
        rewards = token_rewards(reward, old - sft, MASK, kl_coefficient=in_reward)
        advantages, _ = generalized_advantages(rewards, torch.zeros_like(rewards), MASK, discount=1.0, gae_lambda=1.0)
        loss, _ = clipped_surrogate(now, old, advantages * likely, MASK, clip=0.2, clip_high=0.2)
        if placement != "reward":
            loss = loss + BETA * kl_loss(now, old, sft, likely.expand(-1, 2), estimator=placement)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float((log_probs(*learned).detach().sum(dim=1).exp() - best).abs().sum() / 2)


def test_inside_the_reward_the_penalty_leads_to_the_optimum() -> None:
    assert distance_from_optimum("reward") < 1e-4


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_in_the_loss_it_leads_beside_it(estimator: str) -> None:
    assert 0.02 < distance_from_optimum(estimator) < 0.2


def test_k2_and_k3_have_one_gradient_at_every_sample() -> None:
    """rho (log pi - log pi_sft), times grad log pi; k1 adds rho grad log pi, whose mean over samples is zero."""
    now = torch.linspace(-3, -0.1, 12, dtype=torch.float64).reshape(1, -1).requires_grad_()
    old, sft = now.detach() - 0.3, now.detach().flip(1)
    gradients = {
        name: torch.autograd.grad(kl_loss(now, old, sft, torch.ones_like(old), estimator=name)[0], now)[0]
        for name in ("k1", "k2", "k3")
    }
    ratio = torch.tensor(0.3, dtype=torch.float64).exp()
    torch.testing.assert_close(gradients["k2"], ratio * (now.detach() - sft))
    torch.testing.assert_close(gradients["k3"], gradients["k2"])
    torch.testing.assert_close(gradients["k1"], gradients["k2"] + ratio)
