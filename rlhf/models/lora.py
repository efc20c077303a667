"""LoRA: weights stay as they are, and a change of low rank beside them learns (Hu et al. 2022, arXiv:2106.09685).

    y = W x + alpha / r  B A x        A: (r, d_in), drawn at random; B: (d_out, r), zero until it learns

The layers are peft's. They go into a model's body, never into a head, which scoring reads as a plain linear layer; the
model stays one of transformers' classes. With the adapter off it is, to the bit, what it was before it learned.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from rlhf.config.training import LoraConfig
from rlhf.errors import ConfigError

_NAME = "default"  # of the one adapter


def adapt(model: PreTrainedModel, config: LoraConfig | None, seed: int) -> PreTrainedModel:
    """Freeze `model`, in place, and put an adapter into its body; None leaves the model to learn whole.

    A scalar head, `score`, goes on learning. Raises ConfigError for a target that the body does not have.
    """
    if config is None:
        return model
    import peft  # half a second, which stages without an adapter are spared

    body = text_body(model)
    _check_targets(config, body)
    model.requires_grad_(False)
    set_seed(seed)  # of A
    layers = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=config.target_modules, lora_dropout=0.0
    )
    peft.inject_adapter_in_model(layers, body, adapter_name=_NAME)
    if isinstance(head := getattr(model, "score", None), nn.Linear):
        head.requires_grad_(True)
    return model.eval()


def text_body(model: PreTrainedModel) -> nn.Module:
    """What text passes through before a head: all of a model's body, unless it reads pictures or sounds as well."""
    only_text = model.config.get_text_config() is model.config
    return cast(nn.Module, model.base_model if only_text else model.get_decoder())


class AdapterOff:
    """The reference of a policy that learns in an adapter: inside `with`, its own weights without the adapter."""

    def __init__(self, policy: PreTrainedModel) -> None:
        self._policy, self._layers = policy, _layers(policy).values()
        assert self._layers, "a policy without an adapter cannot be its own reference"

    def __enter__(self) -> PreTrainedModel:
        for layer in self._layers:
            layer.enable_adapters(False)
        return self._policy

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            layer.enable_adapters(True)


def merged_weights(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
    """A model's weights, named as they are without an adapter: W + alpha / r B A where it has one. Changes nothing.

    weights: of the model; without them its `state_dict(keep_vars=True)`, the tensors themselves. What is merged is made
    when it is asked for: whoever keeps none of it needs memory for one.
    """
    layers = _layers(model)
    for name, weight in (model.state_dict(keep_vars=True) if weights is None else weights).items():
        owner, beside, own = name.rpartition(".base_layer.")
        if beside and owner in layers:
            yield f"{owner}.{own}", _merged(weight, layers[owner]) if own == "weight" else weight
        elif name.partition(".lora_")[0] not in layers:
            yield name, weight


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """As `merged_weights`, for a file: what was merged is on the CPU, but where processes hold shards of it."""
    return {
        name: weight if isinstance(weight, nn.Parameter | DTensor) else weight.cpu()
        for name, weight in merged_weights(model)
    }


@torch.no_grad()
def _merged(weight: Tensor, layer: Any) -> Tensor:
    with torch.autocast(weight.device.type, enabled=False):
        merged: Tensor = weight + layer.get_delta_weight(_NAME)
    return merged


def _layers(model: nn.Module) -> dict[str, Any]:
    """The layers of the adapter, by the names of those that they took the place of."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _check_targets(config: LoraConfig, body: nn.Module) -> None:
    if isinstance(config.target_modules, str):
        return
    linear = {
        name.rpartition(".")[2] for name, module in body.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    if unknown := [name for name in config.target_modules if name not in linear]:
        raise ConfigError(
            f"lora.target_modules names {', '.join(unknown)}, but the linear layers in the body of this model are "
            f"{', '.join(sorted(linear))}. Name some of these, or write all-linear for all of them"
        )
