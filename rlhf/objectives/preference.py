"""Losses over every pair of a ranking: Bradley-Terry for a reward model and, with implicit rewards, DPO; and IPO."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.objectives import Metrics


def bradley_terry(
    rewards: Tensor,
    ranks: Tensor,
    mask: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Sum over prompts of the ranking loss over all pairs of the prompt's K answers.

        loss(x) = -1 / C(K, 2)  sum_{i before j}  log sigmoid(r_i - r_j)

    (Ouyang et al. 2022, Eq. 1; lecture 001.)

    A tie counts as half a preference each way: -1/2 log sigmoid(d) - 1/2 log sigmoid(-d). With label smoothing e, a
    preference counts as 1 - e one way and e the other (Mitchell 2023, conservative DPO).

    rewards: (B, K) score of each answer. ranks: (B, K) integers, 1 is best, equal is a tie. mask: (B, K), True where an
    answer exists; every prompt has at least two. weights: (B,) how often each prompt counts; None: once. Divide by
    B for the mean over prompts.
    Metrics, over untied pairs: `accuracy` (share in the right order) and `margin` (r_better - r_worse).
    """
    difference, pair, better, tied = _pairs(rewards, ranks, mask)
    first_wins = torch.where(tied, 0.5, torch.where(better, 1.0 - label_smoothing, label_smoothing)).to(rewards.dtype)
    loss = -(first_wins * logsigmoid(difference) + (1.0 - first_wins) * logsigmoid(-difference))
    return _mean_of_pairs(loss, pair, weights), _pair_metrics(difference, pair, better, tied)


def identity_preference(log_ratios: Tensor, ranks: Tensor, mask: Tensor, *, beta: float) -> tuple[Tensor, Metrics]:
    """Sum over prompts of IPO's loss over all pairs of the prompt's K answers.

        loss(x) = 1 / C(K, 2)  sum_{i before j}  (h_i - h_j - 1 / (2 beta))^2,   h = log pi(y | x) / pi_ref(y | x)

    (Azar et al. 2024, Eq. 17, whose tau is beta.)

    Where Bradley-Terry pushes a margin without end, this one has a goal. A tie counts as half a preference each way.
    log_ratios: (B, K); the rest and the metrics as in `bradley_terry`.
    """
    difference, pair, better, tied = _pairs(log_ratios, ranks, mask)
    goal = 0.5 / beta
    loss = torch.where(tied, difference.square() + goal**2, (difference - torch.where(better, goal, -goal)).square())
    return _mean_of_pairs(loss, pair), _pair_metrics(difference, pair, better, tied)


def _pairs(rewards: Tensor, ranks: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, K, K) each: r_i - r_j, each unordered pair once, whether i is better, whether they tie."""
    difference = rewards[:, :, None] - rewards[:, None, :]
    pair = (mask[:, :, None] & mask[:, None, :]).triu(diagonal=1)
    return difference, pair, ranks[:, :, None] < ranks[:, None, :], ranks[:, :, None] == ranks[:, None, :]


def _mean_of_pairs(loss: Tensor, pair: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the pairs of each prompt, summed over prompts; a prompt with one answer has none, and adds nothing."""
    means = (loss * pair).sum(dim=(1, 2)) / pair.sum(dim=(1, 2)).clamp(min=1)
    return (means if weights is None else means * weights).sum()


def _pair_metrics(difference: Tensor, pair: Tensor, better: Tensor, tied: Tensor) -> Metrics:
    untied = pair & ~tied
    margins = torch.where(better, difference, -difference).detach() * untied
    pairs = untied.sum()
    return {"accuracy": ((margins > 0).sum(), pairs), "margin": (margins.sum(), pairs)}


def centering(rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum over prompts of the squared mean reward of the prompt's answers: keeps rewards near zero.

        loss(x) = (1 / K  sum_i r_i)^2

    Bradley-Terry leaves a constant free for each prompt, and this sets it; it does not pull at differences. Of two
    answers it is a quarter of (r_w + r_l)^2 (Eisenstein et al. 2024). rewards, mask: (B, K).
    """
    return ((rewards * mask).sum(dim=1) / mask.sum(dim=1)).square().sum()


def implicit_rewards(log_probs: Tensor, reference_log_probs: Tensor, *, beta: float) -> Tensor:
    """DPO's implicit reward of each answer, up to a constant of its prompt.

        r(x, y) = beta [log pi_theta(y | x) - log pi_ref(y | x)]  (+ beta log Z(x))

    (Rafailov et al. 2023, Eq. 5; lecture 004.)

    With it, `bradley_terry` is the DPO loss (their Eq. 7) over every pair of a ranking. Both arguments, of any equal
    shape: sums of token log-probabilities over the response.
    """
    return beta * (log_probs - reference_log_probs)
