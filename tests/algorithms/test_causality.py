"""Causality (lecture 001): a token need not answer for the rewards before it. They leave the mean gradient as it is,
and add to its variance."""

import torch
from torch import Tensor
from torch.nn.functional import pad as padded

from rlhf.algorithms.online import Rollouts
from rlhf.algorithms.reinforce import Reinforce
from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from tests.algorithms.enumerable import PROMPTS, Table, settings

V, BETA = 4, 0.5
FIRST, SECOND = torch.cartesian_prod(torch.arange(V), torch.arange(V)).T  # of all answers of two tokens


def log_probs(logits: Tensor) -> Tensor:
    """Of each token of every answer, (V^2, 2). logits: (1 + V, V), of the first token and after each first token."""
    found = logits.log_softmax(1)
    return torch.stack([found[0, FIRST], found[1 + FIRST, SECOND]], dim=1)


def gradients(credit: str, logits: Tensor, reference: Tensor, reward: Tensor) -> Tensor:
    """What each answer gives, (V^2, (1 + V) V)."""
    rollouts = Rollouts(
        batch=pad([Turn([0], [int(a), int(b)]) for a, b in zip(FIRST, SECOND, strict=True)]),
        parts=[],
        answers=1,
        scores=reward,
        log_probs=padded(log_probs(logits).detach(), (1, 0)),
        reference=padded(log_probs(reference), (1, 0)),
    )
    config = settings("reinforce", BETA, prompts=1, answers=1, baseline="none", discount=1.0, credit=credit)
    algorithm = Reinforce(Table(torch.zeros(PROMPTS, V)), config)
    each = (algorithm.credit(rollouts)["advantages"][:, 1:] * log_probs(logits)).sum(dim=1)
    return torch.stack([torch.autograd.grad(one, logits, retain_graph=True)[0].flatten() for one in each])


def test_what_came_before_a_token_is_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn((2, 1 + V, V), generator=generator, dtype=torch.float64)
    reward = torch.randn(V * V, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    likely = log_probs(logits).sum(dim=1).exp()
    gain = reward - BETA * (log_probs(logits) - log_probs(reference)).sum(dim=1)
    (exact,) = torch.autograd.grad((likely * gain).sum(), logits)

    variance = dict[str, float]()
    for credit in ("to_go", "trajectory"):
        found, weight = gradients(credit, logits, reference, reward), likely.detach()[:, None]
        mean = (weight * found).sum(dim=0)
        torch.testing.assert_close(mean, exact.flatten(), rtol=0, atol=1e-12)
        variance[credit] = float((weight * (found - mean) ** 2).sum())
    assert variance["to_go"] < 0.9 * variance["trajectory"], variance
