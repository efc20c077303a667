"""KTO: one answer at a time, judged good or bad (Ethayarajh et al. 2024)."""

import torch
from torch import Tensor

from rlhf.objectives import Metrics


def kahneman_tversky(
    log_ratios: Tensor, up: Tensor, *, reference_point: float, beta: float, up_weight: float, down_weight: float
) -> tuple[Tensor, Metrics]:
    """Sum over answers of the loss of human utility, which is concave in gains and convex in losses.

        h = log pi(y | x) / pi_ref(y | x)
        loss = lambda_D (1 - sigmoid(beta (h - z0)))      for an answer that was judged good
               lambda_U (1 - sigmoid(beta (z0 - h)))      for one that was judged bad

    (Ethayarajh et al. 2024, Eq. 8.)

    log_ratios: (B,). up: (B,) bool, True for thumbs up. reference_point: z0, an estimate of KL(pi || pi_ref) that is
    not differentiated. Metrics: mean `up_reward` and `down_reward`, beta h of the answers of either kind.
    """
    gain = torch.where(up, log_ratios - reference_point, reference_point - log_ratios)
    weight = torch.where(up, up_weight, down_weight).to(log_ratios.dtype)
    rewards = beta * log_ratios.detach()
    return (weight * (1.0 - torch.sigmoid(beta * gain))).sum(), {
        "up_reward": ((rewards * up).sum(), up.sum()),
        "down_reward": ((rewards * ~up).sum(), (~up).sum()),
    }
