"""Maximum likelihood of given tokens: pretraining and supervised fine-tuning."""

from torch import Tensor

from rlhf.objectives import Metrics


def negative_log_likelihood(log_probs: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
    """Sum over counted tokens of -log p(y_t | x, y_<t).

        l(x, y) = -log p_theta(y | x)                                   (lecture 001, "Supervised Fine-Tuning")

    log_probs: (B, T), log-probability of each token. mask: (B, T), True on the tokens that are to be learned.
    Divide by the number of those tokens for the mean loss in nats a token.
    """
    return -(log_probs * mask).sum(), {}
