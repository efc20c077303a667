"""Robustness over groups: weights that move to the groups whose loss is highest."""

from torch import Tensor


def towards_worst(log_weights: Tensor, losses: Tensor, *, rate: float) -> Tensor:
    """Logarithms of the groups' weights after one step of exponentiated gradient ascent on their weighted loss.

        alpha_g <- alpha_g exp(eta L_g) / sum_h alpha_h exp(eta L_h)

    (Ramesh et al. 2024, Algorithm 1; Sagawa et al. 2020, Algorithm 1.)

    What minimises sum_g alpha_g L_g beside it nears min over pi, max over g of L_g. log_weights: (groups,) log alpha.
    losses: (groups,) L_g. rate: eta.
    """
    return (log_weights + rate * losses).log_softmax(dim=0)
