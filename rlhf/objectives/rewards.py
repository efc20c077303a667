"""Several rewards of one answer as a single one: weighted and summed, as they are or each standardised first."""

from collections.abc import Sequence

from torch import Tensor


def weighted_sum(rewards: Tensor, weights: Sequence[float]) -> Tensor:
    """One reward of each answer from its C rewards.

        r_i = sum_c w_c r_ic

    rewards: (B, C). weights: C of them. Returns (B,).
    """
    return (rewards * rewards.new_tensor(weights)).sum(dim=1)


def standardized(rewards: Tensor, answers: int) -> Tensor:
    """Each reward by itself with mean 0 and standard deviation 1 over the G answers of a prompt.

        z_ic = (r_ic - mean_j r_jc) / (std_j r_jc + 1e-4),   j over the prompt's answers

    A reward then counts by its weight, whatever its scale, and answers that differ in one reward only stay apart, which
    the sum of raw rewards may hide (Liu et al. 2026, arXiv:2601.05242, group reward-decoupled normalization). A reward
    that is equal for all of them counts for nothing. Where G is 1, j runs over all of the answers. The deviation is
    that of a sample, with G - 1, as in TRL.

    rewards: (B, C), the G = `answers` answers of a prompt side by side. Returns (B, C).
    """
    groups = rewards.view(-1, answers if answers > 1 else len(rewards), rewards.shape[1])
    deviation = groups.std(dim=1, keepdim=True, correction=min(1, groups.shape[1] - 1))
    return ((groups - groups.mean(dim=1, keepdim=True)) / (deviation + 1e-4)).view_as(rewards)
