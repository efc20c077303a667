"""Products by oneDNN are those that torch makes, and so are their gradients."""

import pytest
import torch
from torch import Tensor, nn

from rlhf.models import kernels


@pytest.mark.parametrize(("shape", "bias"), [((7, 5), True), ((2, 3, 5), False), ((1, 70, 5), True)])
@pytest.mark.parametrize(("outputs", "wide", "products"), [(4, 5, 3), (9, 5, 2), (4, 6, 2)])
def test_one_dnn(
    shape: tuple[int, ...], bias: bool, outputs: int, wide: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not asked for the weight's gradient where it would have to copy the larger matrix, or use it little."""
    monkeypatch.setattr(kernels, "one_dnn", lambda: True)
    monkeypatch.setattr(kernels, "_LARGE", 0)
    monkeypatch.setattr(kernels, "_WIDE", wide)
    called: list[Tensor] = []
    one_dnn = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *arguments: called.append(arguments) or one_dnn(*arguments)
    )
    torch.manual_seed(0)
    exact = nn.Linear(5, outputs, bias=bias, dtype=torch.float64)
    layer = kernels.OneDnnLinear(5, outputs, bias=bias)
    layer.load_state_dict(exact.state_dict())
    states, slope = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(*shape[:-1], outputs)
    single = states.detach().float().requires_grad_()
    wanted, found = exact(states), layer(single)
    (wanted * slope).sum().backward()
    (found * slope).sum().backward()
    assert len(called) == products, "oneDNN was not asked for the product and its gradients"
    assert found.shape == wanted.shape
    for ours, theirs in ((found, wanted), (single.grad, states.grad), (layer.weight.grad, exact.weight.grad)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    if bias:
        torch.testing.assert_close(layer.bias.grad.double(), exact.bias.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_weight_that_is_laid_out_gives_the_same_products(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "one_dnn", lambda: True)
    torch.manual_seed(0)
    exact, bias = torch.randn(512, 513, dtype=torch.float64), torch.randn(512)
    weight, states = exact.float(), torch.randn(rows, 513)
    laid_out = kernels.laid_out(weight)
    assert laid_out.is_mkldnn
    expected = states.double() @ exact.T + bias
    torch.testing.assert_close(kernels.product(states, laid_out, bias).double(), expected, rtol=0, atol=1e-4)
    weight.zero_()
    assert float(kernels.product(states, laid_out).abs().max()) > 1, "it is a copy"
    for as_it_is in (torch.randn(511, 513), exact, weight.bfloat16()):
        assert kernels.laid_out(as_it_is) is as_it_is


def test_frozen_weights_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "one_dnn", lambda: True)
    layer = kernels.OneDnnLinear(5, 9).requires_grad_(False)
    states = torch.randn(3, 5, requires_grad=True)
    layer(states).sum().backward()
    assert layer.weight.grad is layer.bias.grad is None
    torch.testing.assert_close(states.grad, layer.weight.sum(dim=0).expand(3, 5))


def test_autocast_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "one_dnn", lambda: True)
    monkeypatch.setattr(kernels, "_LARGE", 0)
    layer, states = kernels.OneDnnLinear(5, 9), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16
    assert layer(states).dtype == torch.float32
