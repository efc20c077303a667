"""The parts of PPO's objective (Schulman et al. 2017; lecture 000)."""

import torch
from torch import Tensor

from rlhf.objectives import Metrics


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, *, clip: float, clip_high: float
) -> tuple[Tensor, Metrics]:
    """Sum over counted tokens of minus the clipped surrogate.

        -min(rho_t A_t, clip(rho_t, 1 - eps, 1 + eps_high) A_t),   rho_t = pi_theta / pi_old

    (Schulman et al. 2017, Eq. 7, where both are equal; Yu et al. 2025, DAPO, section 3.1, where eps_high is larger.)

    All tensors (B, T). Metrics, over tokens: `clip_share`, `approximate_kl` (k3 of old against new).
    """
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    ratio = log_ratio.exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip, 1.0 + clip_high))
    outside = (ratio < 1.0 - clip) | (ratio > 1.0 + clip_high)
    metrics = {
        "clip_share": ((outside & mask).sum(), mask.sum()),
        "approximate_kl": (((ratio - 1.0 - log_ratio) * mask).sum().detach(), mask.sum()),
    }
    return (loss * mask).sum(), metrics


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
) -> tuple[Tensor, Metrics]:
    """Sum over counted tokens of the squared error of the critic, its change clipped as the policy's is.

        1/2 max((V_t - G_t)^2, (clip(V_t, V_old - eps, V_old + eps) - G_t)^2)

    (Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO".)

    All tensors (B, T).
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    loss = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
    total = (loss * mask).sum()
    return total, {"value_loss": (total.detach(), mask.sum())}
