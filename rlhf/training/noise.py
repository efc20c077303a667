"""How noisy the gradient is that an algorithm learns from: McCandlish et al. 2018, arXiv:1812.06162.

    g_1 .. g_n  gradients of n independent steps at the same weights, of mean G and covariance Sigma
    |G|^2       = (n |mean g|^2 - mean |g|^2) / (n - 1)
    tr Sigma    = (mean |g|^2 - |mean g|^2) n / (n - 1)                          both without bias (their appendix A.1)

tr Sigma / |G|^2 is their simple noise scale (Eq. 2.9), in steps: so many steps' worth of data make a gradient whose
noise is as large as its mean. It does not depend on how the loss is scaled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.training.learner import in_precision_of, make_accelerator
from rlhf.training.step import Step


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """Estimates from the gradients of `steps` steps."""

    steps: int
    mean_square: float  # |G|^2; may be below zero where the noise hides the mean
    variance: float  # tr Sigma


def gradient_noise(objective: nn.Module, policy: nn.Module, steps: Iterable[Step]) -> GradientNoise | None:
    """The noise in the gradient of those parameters of `policy` that learn; None of fewer than two steps.

    objective: as the loop's, and holds the policy. Nothing is changed, neither a weight nor a `.grad` nor a random
    stream; buffers of the objective, which an algorithm may move while it makes a step, are put back after each. Every
    process measures the whole. Takes the memory of two gradients.
    """
    parameters = [p for p in policy.parameters() if p.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    accelerator = make_accelerator()
    total, squares, count = [torch.zeros_like(p) for p in parameters], 0.0, 0
    for step in in_precision_of(accelerator, iter(steps)):
        with accelerator.autocast():
            gradient = _gradient(objective, parameters, step)
        squares, count = squares + _square(gradient), count + 1
        for summed, part in zip(total, gradient, strict=True):
            summed += part
        for name, buffer in objective.named_buffers():
            buffer.copy_(buffers[name])
    if count < 2:
        return None
    of_mean, mean = _square(total) / count**2, squares / count
    return GradientNoise(count, (count * of_mean - mean) / (count - 1), (mean - of_mean) * count / (count - 1))


def _gradient(objective: nn.Module, parameters: Sequence[Tensor], step: Step) -> list[Tensor]:
    gradient = [torch.zeros_like(p) for p in parameters]
    for micro_batch in step.micro_batches:
        loss = objective(micro_batch)[0] / step.count
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        for summed, part in zip(gradient, parts, strict=True):
            if part is not None:
                summed += part
    return gradient


def _square(vector: Sequence[Tensor]) -> float:
    return sum(float(part.double().square().sum()) for part in vector)
