"""What is chosen from the machine can be chosen otherwise."""

import pytest

from rlhf.errors import ConfigError
from rlhf.models import machine


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


@pytest.mark.parametrize("variable", ["RLHF_PRECISION", "RLHF_PRODUCTS"])
def test_a_name_that_means_nothing_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "fast")
    with pytest.raises(ConfigError, match=f"{variable} is `fast`"):
        machine.choices()
