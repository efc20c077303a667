"""One new token a row.

    x <- x + W_o attention(R W_qkv norm(x))          x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

transformers' modules spend more time between the kernels of so small a computation than in them, and three products
read the same states where one does. So models of Llama's kind are computed here, kernel after kernel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

from rlhf.models.kernels import OneDnnLinear, laid_out, product, reads_packed
from rlhf.models.lora import merged_weights
from rlhf.models.machine import product_dtype
from rlhf.rollouts.cache import PreallocatedCache, PreallocatedLayer

_KINDS = ("llama", "mistral", "qwen2")

# Hidden states of new tokens, (B,) to (B, d), whose keys and values are written into the cache. Beside the tokens: the
# position of each, (B,), and the mask: (B, 1, 1, L) added to the attention's logits, or (B, L) True on tokens.
Decoder = Callable[[Tensor, Tensor, Tensor, PreallocatedCache], Tensor]


def decoder(policy: PreTrainedModel) -> Decoder:
    """The decoder of a policy with its weights as they are now."""
    model, config = policy.base_model, policy.config
    biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))  # where Qwen2 has none
    if reads_packed(policy) and config.model_type in _KINDS and config.hidden_act == "silu" and not biased:
        return LlamaDecoder(cast(PreTrainedModel, model))
    return partial(_by_transformers, model)


def output_head(policy: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Logits of hidden states, (B, d) to (B, V), with the head's weights as they are now."""
    head = policy.get_output_embeddings()
    if type(head) not in (nn.Linear, OneDnnLinear):
        return cast(nn.Module, head)
    head, dtype = cast(nn.Linear, head), product_dtype(head.weight)
    weight, bias = laid_out(head.weight.to(dtype)), None if head.bias is None else head.bias.to(dtype)
    return lambda states: product(states.to(dtype), weight, bias)


def _by_transformers(
    model: nn.Module, token: Tensor, position: Tensor, mask: Tensor, cache: PreallocatedCache
) -> Tensor:
    states: Tensor = model(
        input_ids=token[:, None],
        attention_mask=mask,
        position_ids=position[:, None],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states[:, -1]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of a layer, laid out for products of few rows; those that read the same states stand in one."""

    before_attention: Tensor  # (d,) of the norm
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    before_mlp: Tensor  # (d,) of the norm
    gate_and_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "Layer":
        """weights: of the layer, as transformers names them. Those of products are cast to `dtype`, once."""
        return cls(
            before_attention=weights["input_layernorm.weight"],
            qkv=laid_out(torch.cat([weights[f"self_attn.{name}_proj.weight"] for name in "qkv"]).to(dtype)),
            qkv_bias=torch.cat([weights[f"self_attn.{name}_proj.bias"] for name in "qkv"]).to(dtype)
            if "self_attn.q_proj.bias" in weights
            else None,
            out=laid_out(weights["self_attn.o_proj.weight"].to(dtype)),
            before_mlp=weights["post_attention_layernorm.weight"],
            gate_and_up=laid_out(torch.cat([weights[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]).to(dtype)),
            down=laid_out(weights["mlp.down_proj.weight"].to(dtype)),
        )


class LlamaDecoder:
    """A `Decoder`, of the precision of autocast where that is on."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        parts: Any = model
        self._embedding, self._norm, self._rotary = parts.embed_tokens.weight, parts.norm.weight, parts.rotary_emb
        self._heads, self._shared = config.num_attention_heads, cast(int, config.num_key_value_heads)
        self._eps = config.rms_norm_eps
        self._dtype = product_dtype(self._embedding)
        # parameters, not a state_dict: where they are sharded these are the gathered ones
        own = (dict(merged_weights(layer, dict(layer.named_parameters()))) for layer in parts.layers)
        self._layers = [Layer.of(weights, self._dtype) for weights in own]

    def __call__(self, token: Tensor, position: Tensor, mask: Tensor, cache: PreallocatedCache) -> Tensor:
        """As `Decoder`."""
        states = embedding(token, self._embedding)
        cos, sin = self._rotary(states, position[:, None])
        turning = self._heads + self._shared
        for layer, kept in zip(self._layers, cast(list[PreallocatedLayer], cache.layers), strict=True):
            qkv = self._product(self._normed(states, layer.before_attention), layer.qkv, layer.qkv_bias)
            qkv = qkv.unflatten(-1, (turning + self._shared, -1))
            turned = _turn(qkv[:, :turning], cos, sin).to(self._dtype)
            keys, values = kept.update(turned[:, self._heads :, None], qkv[:, turning:, None])
            queries = turned[:, : self._heads].unflatten(1, (self._shared, -1))  # that share a key side by side
            attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            states = states + self._product(attended.flatten(1), layer.out)
            gate, up = self._product(self._normed(states, layer.before_mlp), layer.gate_and_up).chunk(2, dim=-1)
            states = states + self._product(silu(gate).mul_(up), layer.down)
        return self._normed(states, self._norm)

    def _product(self, states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return product(states.to(self._dtype), weight, bias)

    def _normed(self, states: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(states, weight.shape, weight, self._eps)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), the halves of a head as pairs: (B, heads, d) by (B, 1, d)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin
