"""From scores to per-token rewards, and from those to advantages."""

import torch
from torch import Tensor

from rlhf.objectives.rewards import standardized


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coefficient: float) -> Tensor:
    """Reward of each response token: the KL penalty everywhere, the answer's score on its last token.

        r_t = -beta (log pi(y_t | s_t) - log pi_sft(y_t | s_t)) + [t is last] R(x, y)

    (Ouyang et al. 2022, Eq. 2; lecture 004.)

    scores: (B,). kl: (B, T), k1 of each token. mask: (B, T). Returns (B, T), zero outside the mask.
    """
    rewards = -kl_coefficient * kl * mask
    rewards[torch.arange(len(rewards)), last_index(mask)] += scores * mask.any(dim=1)  # none of an empty answer
    return rewards


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over the response, and the returns that the critic learns.

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   G_t = A_t + V_t
                                                                             (Schulman et al. 2016, Eq. 11, 16)

    rewards, values, mask: (B, T); the mask of a row is one contiguous stretch; V_t is the value of the state in which
    token t is chosen, and the state after the last token is worth 0. lambda = 1 is Monte Carlo: A_t = G_t - V_t
    (lecture 000).
    Returns advantages and returns, both (B, T), zero outside the mask.
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t].to(rewards.dtype)
        delta = rewards[:, t] + discount * next_value - values[:, t]
        next_advantage = inside * (delta + discount * gae_lambda * next_advantage)
        next_value = inside * values[:, t]
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def leave_one_out(rewards: Tensor, answers: int) -> Tensor:
    """Reward of each answer less the mean of the other answers to its prompt.

        A_i = R_i - 1/(G - 1) sum_{j != i} R_j                              (Kool et al. 2019; Ahmadian et al. 2024)

    rewards: (B,), the G = `answers` answers of a prompt side by side, two or more. Returns (B,).
    """
    groups = rewards.view(-1, answers)
    return ((answers * groups - groups.sum(dim=1, keepdim=True)) / (answers - 1)).view(-1)


def group_relative(rewards: Tensor, answers: int, *, normalize: bool) -> Tensor:
    """Reward of each answer less the mean of its prompt's answers; with `normalize`, over their standard deviation.

        A_i = (R_i - mean(R_1..R_G)) / (std(R_1..R_G) + 1e-4)                          (Shao et al. 2024, section 4.1.2)

    The deviation is that of a sample, with G - 1, as in TRL. Without the division, questions that are too easy or too
    hard weigh no more than others (Liu et al. 2025, Dr. GRPO). A group whose rewards are all equal teaches nothing.
    rewards: (B,), groups of two or more side by side. Returns (B,).
    """
    if normalize:
        return standardized(rewards[:, None], answers)[:, 0]
    groups = rewards.view(-1, answers)
    return (groups - groups.mean(dim=1, keepdim=True)).view(-1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over the N counted tokens of the whole batch; zero elsewhere.

    All (B, T). The deviation is that of a population, with N.
    """
    counted = values[mask]
    return torch.where(mask, (values - counted.mean()) * torch.rsqrt(counted.var(correction=0) + 1e-8), 0.0)


def on_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """One value an answer, (B,), on each of its counted tokens, (B, T)."""
    return values[:, None] * mask


def first_token(mask: Tensor) -> Tensor:
    """True on the first True of each row. mask: (B, T). Returns (B, T)."""
    return mask & (mask.cumsum(dim=1) == 1)


def last_index(mask: Tensor) -> Tensor:
    """Index of the last True of each row. mask: (B, T). Returns (B,)."""
    return mask.shape[1] - 1 - mask.flip(1).to(torch.int8).argmax(dim=1)
