"""Per-token estimators of KL(pi || pi_ref) from samples of pi (Schulman 2020, "Approximating KL Divergence").

k1, k2 and k3 take and give tensors of one shape, (B, T) in the losses: an element a token.
"""

from typing import Literal

from torch import Tensor

from rlhf.objectives import Metrics


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log pi - log pi_ref: unbiased, signed. The one to report, and to use as a penalty inside the reward."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """1/2 (log pi - log pi_ref)^2: biased, little while pi is near pi_ref; its gradient is that of the divergence."""
    return 0.5 * (log_probs - reference_log_probs).square()


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """pi_ref / pi - 1 - log(pi_ref / pi): unbiased and never negative.

    Of low variance only while pi is near pi_ref. Where pi gives little to what pi_ref gives much, rare samples hold
    most of the sum: a mean of a few is too low, and looks sure of it.
    """
    log_ratio = reference_log_probs - log_probs
    return log_ratio.exp() - 1.0 - log_ratio


def kl_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    mask: Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"],
) -> tuple[Tensor, Metrics]:
    """Sum over counted tokens of an estimate whose gradient is that of KL(pi || pi_ref), for samples of pi_old.

        k1, k3    rho_t k(t)          rho_t = pi / pi_old, through which the gradient goes too
        k2        sg(rho_t) k2(t)     sg stops the gradient

    k2 and k3 have the same gradient, rho k1 grad log pi, at every sample, and differ in the value that is reported;
    k1's has another term, whose mean is zero.

    The gradient of E[k1] alone is zero and that of E[k3] alone is another divergence's: what is differentiated must be
    the expectation, which depends on pi through the samples too (Tang and Munos 2025; DeepSeek-V3.2, section 3.1).
    All tensors (B, T). The divergence is that of each token given what stands before it: how the choice of a token
    changes the divergence of later ones is seen only by a penalty inside the reward.
    """
    ratio = (log_probs - old_log_probs).exp()
    if estimator == "k2":
        estimate = ratio.detach() * k2(log_probs, reference_log_probs)
    else:
        estimate = ratio * {"k1": k1, "k3": k3}[estimator](log_probs, reference_log_probs)
    total = (estimate * mask).sum()
    return total, {"kl_loss": (total.detach(), mask.sum())}


def adapted(coefficient: float, kl: float, *, target: float, answers: int, horizon: int) -> float:
    """The KL coefficient after an iteration whose answers diverged by `kl`: higher when that was above the target.

        e = clip(KL / target - 1, -0.2, 0.2),   beta <- beta (1 + e answers / horizon)

    (Ziegler et al. 2019, section 2.2, whose K_beta, 0.1 an update, is answers / horizon.)

    kl, target: nats a sequence.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * answers / horizon)
