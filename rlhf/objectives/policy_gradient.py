"""The policy gradient without a ratio, and the squared error that a baseline or a critic learns by."""

from torch import Tensor

from rlhf.objectives import Metrics


def policy_gradient(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Sum over counted tokens of -A_t log pi(a_t | s_t), whose gradient is minus the policy gradient.

        grad J = E[ sum_t grad log pi(a_t | s_t) A_t ]                            (lecture 001, "Adding a Baseline")

    All tensors (B, T); the advantages are constants. Divide by the number of answers.
    """
    return -(log_probs * advantages * mask).sum()


def squared_error(values: Tensor, returns: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
    """Sum over counted tokens of 1/2 (V(s_t) - G_t)^2, the regression of the return on the state (lecture 000).

    All tensors (B, T).
    """
    total = 0.5 * ((values - returns).square() * mask).sum()
    return total, {"value_loss": (total.detach(), mask.sum())}
