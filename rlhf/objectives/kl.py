"""Per-token estimators of KL(pi || pi_ref) from samples of pi (Schulman 2020, "Approximating KL Divergence")."""

from torch import Tensor


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log pi - log pi_ref: unbiased, signed. The one to use as a penalty inside the reward."""
    return log_probs - reference_log_probs


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """pi_ref / pi - 1 - log(pi_ref / pi): unbiased, never negative, of low variance. The one to report."""
    log_ratio = reference_log_probs - log_probs
    return log_ratio.exp() - 1.0 - log_ratio
