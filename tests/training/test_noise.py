"""The noise of a gradient, of samples made by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from rlhf.training.noise import gradient_noise
from rlhf.training.step import Step


class Linear(nn.Module):
    """A loss whose gradient is what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))
        self.other = nn.Parameter(torch.ones(3))

    def forward(self, given: torch.Tensor) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        return (given * (self.weights + self.other)).sum(), {}


def test_gradient_noise_has_no_bias() -> None:
    """All samples of three gradients, each mean + deviation or mean - deviation with like probability."""
    mean, deviation = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 6.0, 8.0])
    objective, found = Linear(), []
    policy = nn.ParameterList([objective.weights])
    for signs in product((1, -1), repeat=3):
        parts = [(2 * mean, 2 * sign * deviation) for sign in signs]
        noise = gradient_noise(objective, policy, [Step(part, count=2.0) for part in parts])
        assert noise is not None
        assert noise.steps == 3
        found.append((noise.mean_square, noise.variance))
    assert np.mean(found, axis=0) == pytest.approx((25.0, 100.0), rel=1e-6)
    assert objective.weights.grad is None
    assert gradient_noise(objective, policy, [Step([mean], count=1.0)]) is None
