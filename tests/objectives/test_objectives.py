"""Every objective against numbers worked out by hand."""

import math

import pytest
import torch

from rlhf.objectives.advantages import (
    first_token,
    generalized_advantages,
    group_relative,
    last_index,
    leave_one_out,
    on_tokens,
    token_rewards,
    whiten,
)
from rlhf.objectives.kl import adapted, k1, k2, k3, kl_loss
from rlhf.objectives.kto import kahneman_tversky
from rlhf.objectives.likelihood import negative_log_likelihood
from rlhf.objectives.policy_gradient import policy_gradient, squared_error
from rlhf.objectives.ppo import clipped_surrogate, clipped_value_loss
from rlhf.objectives.preference import bradley_terry, centering, identity_preference, implicit_rewards
from rlhf.objectives.rewards import standardized, weighted_sum


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


def test_ipo_has_a_goal_for_every_margin() -> None:
    """beta 0.5: the goal is a margin of 1. Margins 1.5 and 2.5 of the ranking 1, 2, 3 and their sum 4."""
    ranks, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    total, metrics = identity_preference(torch.tensor([[2.0, 0.5, -2.0]]), ranks, mask, beta=0.5)
    close(total, (0.5**2 + 1.5**2 + 3.0**2) / 3)
    close(metrics["margin"][0], 8.0)
    tie, _ = identity_preference(torch.tensor([[2.0, 0.5]]), torch.tensor([[1, 1]]), mask[:, :2], beta=0.5)
    close(tie, 0.5 * (0.5**2 + 2.5**2))


def test_kto_of_an_answer_up_and_one_down() -> None:
    """Two answers of log-ratio 2 and -1, z0 = 0.5, beta 0.1: 1 - sigmoid(0.15), each with its weight."""
    total, metrics = kahneman_tversky(
        torch.tensor([2.0, -1.0]),
        torch.tensor([True, False]),
        reference_point=0.5,
        beta=0.1,
        up_weight=1.0,
        down_weight=3.0,
    )
    close(total, (1.0 + 3.0) / (1.0 + math.exp(0.15)))
    close(metrics["up_reward"][0], 0.2)
    close(metrics["down_reward"][0], -0.1)


def test_centering_pulls_at_the_mean_and_not_at_the_margin() -> None:
    rewards = torch.tensor([[1.0, 3.0], [2.0, 50.0]], requires_grad=True)
    total = centering(rewards, torch.tensor([[True, True], [True, False]]))
    close(total, 2.0**2 + 2.0**2)
    total.backward()
    close(rewards.grad, [[2.0, 2.0], [4.0, 0.0]])


def test_kl_estimators_have_the_mean_of_the_exact_divergence() -> None:
    pi, ref = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    exact = (pi * (pi.log() - ref.log())).sum()
    for estimator in (k1, k3):
        torch.testing.assert_close((pi * estimator(pi.log(), ref.log())).sum(), exact)
    assert (k3(pi.log(), ref.log()) >= 0).all()
    close(k2(torch.tensor([-1.0]), torch.tensor([-3.0])), [2.0])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_every_kl_loss_has_the_gradient_of_the_divergence(estimator: str) -> None:
    """By enumeration, from the samples of an older policy."""
    ref, old = (torch.tensor(p).double().log() for p in ([0.3, 0.3, 0.4], [0.5, 0.3, 0.2]))
    logits = torch.tensor([0.2, -0.3, 0.5]).double().requires_grad_()
    new = logits.log_softmax(0)
    exact = torch.autograd.grad((new.exp() * (new - ref)).sum(), logits, retain_graph=True)[0]
    mask = torch.ones(1, 1, dtype=torch.bool)
    losses = [
        kl_loss(new[a].view(1, 1), old[a].view(1, 1), ref[a].view(1, 1), mask, estimator=estimator)[0] for a in range(3)
    ]
    expected = sum(p * loss for p, loss in zip(old.exp(), losses, strict=True))
    torch.testing.assert_close(torch.autograd.grad(expected, logits)[0], exact)


def test_the_kl_coefficient_follows_its_target() -> None:
    """128 answers, horizon 1000. The error is clipped at a fifth; 1.1 times the target is an error of 0.1."""
    assert adapted(0.2, 100.0, target=10.0, answers=128, horizon=1000) == pytest.approx(0.2 * (1 + 0.2 * 0.128))
    assert adapted(0.2, 11.0, target=10.0, answers=128, horizon=1000) == pytest.approx(0.2 * (1 + 0.1 * 0.128))
    assert adapted(0.2, 0.0, target=10.0, answers=128, horizon=1000) == pytest.approx(0.2 * (1 - 0.2 * 0.128))


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


def test_leave_one_out() -> None:
    """Rewards 1, 2, 6 and 0, 0, 3: each less the mean of the other two."""
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    close(leave_one_out(rewards, 3), [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])


def test_group_relative() -> None:
    """Rewards 1, 2, 6: mean 3, and standard deviation sqrt(7). A group that agrees teaches nothing."""
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    close(group_relative(rewards, 3, normalize=False), [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])
    scale = math.sqrt(7.0) + 1e-4
    close(group_relative(rewards, 3, normalize=True), [-2.0 / scale, -1.0 / scale, 3.0 / scale, 0.0, 0.0, 0.0])


def test_values_of_answers_and_of_first_tokens() -> None:
    close(on_tokens(torch.tensor([2.0, 3.0]), MASK), [[0.0, 2.0, 2.0, 2.0], [0.0, 3.0, 3.0, 0.0]])
    assert first_token(MASK).tolist() == [[False, True, False, False]] * 2


def test_policy_gradient_and_squared_error() -> None:
    log_probs, advantages = torch.tensor([[9.0, -1.0, -2.0, -4.0]]), torch.tensor([[9.0, 3.0, -1.0, 0.5]])
    close(policy_gradient(log_probs, advantages, MASK[:1]), 3.0 - 2.0 + 2.0)
    total, metrics = squared_error(log_probs, advantages, MASK[:1])
    close(total, 0.5 * (16.0 + 1.0 + 20.25))
    assert metrics["value_loss"][1] == 3


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
    total, metrics = clipped_surrogate(
        log_probs, torch.zeros(1, 2), torch.tensor([[9.0, advantage]]), mask, clip=0.2, clip_high=0.2
    )
    close(total.detach(), loss)
    total.backward()
    close(log_probs.grad[0, 1], slope)
    assert metrics["clip_share"] == (int(abs(ratio - 1) > 0.2), 1)


def test_a_higher_clip_above_one_lets_good_tokens_grow() -> None:
    log_probs, mask = torch.tensor([[math.log(1.25), math.log(0.75)]]), torch.ones(1, 2, dtype=torch.bool)
    advantages = torch.tensor([[1.0, -1.0]])
    total, metrics = clipped_surrogate(log_probs, torch.zeros(1, 2), advantages, mask, clip=0.2, clip_high=0.28)
    close(total, -1.25 + 0.8)
    assert metrics["clip_share"] == (1, 2)


def test_clipped_value_loss() -> None:
    """Old 0, return 1: a value of 0.5 is held at 0.2; a value of -0.1 is inside the clip."""
    values, zero = torch.tensor([[0.5, -0.1, 7.0]]), torch.zeros(1, 3)
    total, _ = clipped_value_loss(values, zero, torch.ones(1, 3), torch.tensor([[True, True, False]]), clip=0.2)
    close(total, 0.5 * 0.8**2 + 0.5 * 1.1**2)


def test_rewards_are_weighted_as_they_are_or_each_in_units_of_its_own_spread() -> None:
    """Two prompts of two answers: each reward lies d from its prompt's mean, of a standard deviation of d sqrt 2."""
    rewards = torch.tensor([[1.0, 40.0], [3.0, 20.0], [5.0, 7.0], [4.0, 7.0]], dtype=torch.float64)
    close(weighted_sum(rewards, [1.0, 0.5]), [21.0, 13.0, 8.5, 7.5])
    ones = [d / (d * 2**0.5 + 1e-4) for d in (1, 10, 0.5)]
    expected = [[-ones[0], ones[1]], [ones[0], -ones[1]], [ones[2], 0.0], [-ones[2], 0.0]]
    close(standardized(rewards, 2), expected)
    whole = standardized(rewards, 1)
    close(whole.mean(dim=0), [0.0, 0.0])
    assert whole.std(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    close(standardized(rewards[:1], 1), [[0.0, 0.0]])
