"""What is chosen from the machine can be chosen otherwise."""

import pytest
import torch
from torch import nn

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.errors import ConfigError
from rlhf.models import machine
from rlhf.models.loading import device
from rlhf.models.scoring import linear_values


@pytest.fixture(autouse=True)
def anew() -> None:
    machine.one_dnn.cache_clear()


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_PRECISION", name)
    assert machine.autocasts() == (name == "bf16")
    assert (" bf16 autocast" in machine.choices()) == (name == "bf16")


@pytest.mark.parametrize(("name", "products"), [("onednn", "products by oneDNN"), ("torch", "products by torch")])
def test_products(name: str, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_PRODUCTS", name)
    assert machine.choices().endswith(products)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to compute on")
def test_a_gpu_that_torch_cannot_use_is_told_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"GPU 3 is to be used.*finds none.*set CUDA_VISIBLE_DEVICES to nothing"):
        device()
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert device() == torch.device("cpu")


def test_weights_are_copied_no_more_than_the_autocast_around_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_PRECISION", "bf16")
    for keeps in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=keeps), machine.precision(torch.device("cpu")):
            assert torch.is_autocast_cache_enabled() == keeps


def test_one_number_is_read_off_states_in_fp32() -> None:
    head, states, batch = nn.Linear(8, 1), torch.randn(3, 8), pad([Turn([5], [6, 7, 8])])
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_values(head, states, batch)
    assert torch.equal(found[0, 1:], head(states).squeeze(-1))


@pytest.mark.parametrize("variable", ["RLHF_PRECISION", "RLHF_PRODUCTS"])
def test_a_name_that_means_nothing_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "fast")
    with pytest.raises(ConfigError, match=f"{variable} is `fast`"):
        machine.choices()
