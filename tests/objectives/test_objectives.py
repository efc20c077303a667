"""Every objective against numbers worked out by hand."""

import math

import pytest
import torch

from rlhf.objectives.advantages import generalized_advantages, last_index, token_rewards, whiten
from rlhf.objectives.kl import k1, k3
from rlhf.objectives.likelihood import negative_log_likelihood
from rlhf.objectives.ppo import clipped_surrogate, clipped_value_loss
from rlhf.objectives.preference import bradley_terry, centering, implicit_rewards


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def close(found: torch.Tensor, expected: float | list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-7)


def test_likelihood_sums_what_counts() -> None:
    total, _ = negative_log_likelihood(
        torch.tensor([[-9.0, -1.0, -2.0], [-9.0, -0.5, -9.0]]),
        torch.tensor([[False, True, True], [False, True, False]]),
    )
    close(total, 3.5)


def test_bradley_terry_of_a_pair_is_the_logistic_loss() -> None:
    ranks, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    total, metrics = bradley_terry(torch.tensor([[2.0, 0.5]]), ranks, mask)
    close(total, softplus(-1.5))  # -log sigmoid(1.5)
    close(metrics["margin"][0], 1.5)
    flipped, metrics = bradley_terry(torch.tensor([[2.0, 0.5]]), torch.tensor([[2, 1]]), mask)
    close(flipped, softplus(1.5))
    assert metrics["accuracy"] == (0, 1)


def test_bradley_terry_weighs_a_prompt_by_one_over_its_pairs() -> None:
    """K = 3 and K = 2 side by side: each prompt counts once, whatever its number of pairs."""
    rewards = torch.tensor([[1.0, 0.0, -1.0], [0.3, 0.1, 99.0]])
    ranks = torch.tensor([[1, 2, 3], [1, 2, 0]])
    total, metrics = bradley_terry(rewards, ranks, ranks > 0)
    close(total, (2 * softplus(-1.0) + softplus(-2.0)) / 3 + softplus(-0.2))
    assert metrics["accuracy"] == (4, 4)


def test_a_tie_is_half_a_preference_each_way() -> None:
    total, metrics = bradley_terry(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 1]]), torch.ones(1, 2, dtype=torch.bool)
    )
    close(total, 0.5 * softplus(-1.0) + 0.5 * softplus(1.0))
    assert metrics["accuracy"] == (0, 0)


def test_label_smoothing_is_conservative_dpo() -> None:
    total, _ = bradley_terry(
        torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool), label_smoothing=0.1
    )
    close(total, 0.9 * softplus(-2.0) + 0.1 * softplus(2.0))


def test_dpo_is_bradley_terry_of_implicit_rewards() -> None:
    """beta 0.1, log-ratios 3 and -2: -log sigmoid(0.1 * 5)."""
    rewards = implicit_rewards(torch.tensor([[-7.0, -12.0]]), torch.tensor([[-10.0, -10.0]]), beta=0.1)
    total, _ = bradley_terry(rewards, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
    close(total, softplus(-0.5))


def test_centering_is_a_mean_over_answers() -> None:
    close(centering(torch.tensor([[1.0, 3.0], [2.0, 50.0]]), torch.tensor([[True, True], [True, False]])), 5.0 + 4.0)


def test_kl_estimators_have_the_mean_of_the_exact_divergence() -> None:
    pi, ref = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    exact = (pi * (pi.log() - ref.log())).sum()
    for estimator in (k1, k3):
        torch.testing.assert_close((pi * estimator(pi.log(), ref.log())).sum(), exact)
    assert (k3(pi.log(), ref.log()) >= 0).all()


MASK = torch.tensor([[False, True, True, True], [False, True, True, False]])


def test_the_score_lands_on_the_last_token() -> None:
    kl = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 4.0, 5.0, 9.0]])
    close(
        token_rewards(torch.tensor([10.0, 20.0]), kl, MASK, kl_coefficient=0.1),
        [[0.0, -0.1, -0.2, 9.7], [0.0, -0.4, 19.5, 0.0]],
    )
    assert last_index(MASK).tolist() == [3, 2]


def test_advantages_by_hand() -> None:
    """gamma 0.5, lambda 0.5, from the last token backwards."""
    rewards = torch.tensor([[0.0, 1.0, 0.0, 4.0]])
    values = torch.tensor([[7.0, 2.0, 1.0, 3.0]])
    advantages, returns = generalized_advantages(rewards, values, MASK[:1], discount=0.5, gae_lambda=0.5)
    a3 = 4.0 - 3.0
    a2 = (0.0 + 0.5 * 3.0 - 1.0) + 0.25 * a3
    a1 = (1.0 + 0.5 * 1.0 - 2.0) + 0.25 * a2
    close(advantages, [[0.0, a1, a2, a3]])
    close(returns, [[0.0, a1 + 2.0, a2 + 1.0, a3 + 3.0]])


def test_lambda_one_is_monte_carlo() -> None:
    """The return is the discounted sum of what follows, whatever the critic says."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 4, generator=generator).double() for _ in range(2))
    _, returns = generalized_advantages(rewards * MASK, values, MASK, discount=0.9, gae_lambda=1.0)
    for row, end in ((0, 3), (1, 2)):
        for t in range(1, end + 1):
            expected = sum(0.9 ** (u - t) * rewards[row, u] for u in range(t, end + 1))
            torch.testing.assert_close(returns[row, t], expected)


def test_whitening() -> None:
    values = torch.tensor([[100.0, 1.0, 2.0, 3.0], [100.0, 4.0, 5.0, 100.0]])
    white = whiten(values, MASK)
    close(white[MASK].mean(), 0.0)
    close(white[MASK].square().mean(), 1.0)
    assert (white[~MASK] == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # already better by more than the clip: no further push
        (0.5, 2.0, -1.0, -2.0 * 0.5),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0 * 1.5),  # moved the wrong way: the full gradient pulls it back
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float, slope: float) -> None:
    log_probs = torch.tensor([[0.0, math.log(ratio)]], requires_grad=True)
    mask = torch.tensor([[False, True]])
    total, metrics = clipped_surrogate(log_probs, torch.zeros(1, 2), torch.tensor([[9.0, advantage]]), mask, clip=0.2)
    close(total.detach(), loss)
    total.backward()
    close(log_probs.grad[0, 1], slope)
    assert metrics["clip_share"] == (int(abs(ratio - 1) > 0.2), 1)


def test_clipped_value_loss() -> None:
    """Old 0, return 1: a value of 0.5 is held at 0.2; a value of -0.1 is inside the clip."""
    values, zero = torch.tensor([[0.5, -0.1, 7.0]]), torch.zeros(1, 3)
    total, _ = clipped_value_loss(values, zero, torch.ones(1, 3), torch.tensor([[True, True, False]]), clip=0.2)
    close(total, 0.5 * 0.8**2 + 0.5 * 1.1**2)
