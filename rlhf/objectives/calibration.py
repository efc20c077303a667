"""Belief calibration: a policy that holds beliefs as a group of people does (Yao et al. 2025; lecture 000, GDPO)."""

import torch
from torch import Tensor

from rlhf.objectives import Metrics


def belief_calibration(
    log_probs: Tensor, shares: Tensor, mask: Tensor, *, renormalized: bool
) -> tuple[Tensor, Metrics]:
    """Sum over prompts of the divergence of the policy's beliefs from people's.

        loss(x) = KL(p* || pi(b | x)) = sum_b p*(b | x) [log p*(b | x) - log pi(b | x)]

    (Yao et al. 2025, the calibration term of GDPO; lecture 000.)

    log_probs: (B, K) log pi(b | x), each the sum over a belief's tokens. shares: (B, K) p*. mask: (B, K), True where
    there is a belief. renormalized: pi among the K beliefs alone; otherwise whatever else might be said has the share 0
    in p*, so that the loss draws probability to the beliefs too. Divide by B for the mean in nats.
    Metric: `calibration`, the mean divergence.
    """
    log_pi = log_probs.masked_fill(~mask, -torch.inf)
    if renormalized:
        log_pi = log_pi.log_softmax(dim=1)
    loss = (torch.xlogy(shares, shares) - shares * log_pi.masked_fill(~mask, 0.0)).sum()
    return loss, {"calibration": (loss.detach(), mask.any(dim=1).sum())}


def vote_shares(votes: Tensor, mask: Tensor, *, smoothing: float) -> Tensor:
    """p*: the share of people who hold each belief, (B, K), 0 where the mask is False.

        p*(b) = (n_b + a) / (sum_c n_c + K a)       the mean of a Dirichlet posterior whose prior is a for each belief

    votes: (B, K) counts n.
    """
    counts = (votes + smoothing) * mask
    return counts / counts.sum(dim=1, keepdim=True)
