"""Where a sign or an order could be lost: whole rows of numbers worked out by hand, and metrics with them."""

import math

import pytest
import torch

from rlhf.objectives.advantages import whiten
from rlhf.objectives.ppo import clipped_surrogate


def test_whitening_keeps_the_order() -> None:
    """1 to 5 over two rows: mean 3 and variance 2, whatever stands outside the mask."""
    mask = torch.tensor([[False, True, True, True], [False, True, True, False]])
    white = whiten(torch.tensor([[100.0, 1.0, 5.0, 3.0], [-7.0, 4.0, 2.0, 100.0]]), mask)
    root = math.sqrt(2.0)
    expected = torch.tensor([[0.0, -root, root, 0.0], [0.0, 1 / root, -1 / root, 0.0]])
    torch.testing.assert_close(white, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", [2.0, 0.5])
def test_the_approximate_kl_is_k3_of_old_against_new(ratio: float) -> None:
    """rho - 1 - log rho: never negative, and 0 where nothing has moved; sums of it, and what they are sums over."""
    mask = torch.tensor([[False, True, True]])
    log_probs, nothing = torch.tensor([[9.0, math.log(ratio), 0.0]]), torch.zeros(1, 3)
    _, metrics = clipped_surrogate(log_probs, nothing, nothing, mask, clip=0.2, clip_high=0.2)
    total, count = metrics["approximate_kl"]
    assert float(total) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    assert float(total) > 0
    assert count == 2
