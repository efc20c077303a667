"""The kernels that a model computes with: attention over tokens that stand in one row, and products of matrices.

Weights, names and results stay those of transformers; what is chosen depends on the model and the machine alone.
"""

from inspect import signature
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rlhf.batching.layout import SCORES, Block, Layout
from rlhf.models.machine import one_dnn

Model = TypeVar("Model", bound=PreTrainedModel)
PACKED = "packed"  # name of the attention, in a model's configuration
_LARGE = 2**22  # multiplications from which on oneDNN is the faster, although it compiles a kernel for every new shape
_LAID_OUT = 2**18  # numbers of a weight from which on reading it is what a product of few rows takes
_WIDE = 256  # products that each number of a transposed matrix is needed in, before it is worth a copy


def prepare(model: Model) -> Model:
    """Give a model the kernels that suit it and this machine; returns the same model."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for every new length, and lengths are always new
    if _can_read_packed(model):
        AttentionInterface.register(PACKED, _packed_attention)
        AttentionMaskInterface.register(PACKED, sdpa_mask)
        model.set_attn_implementation(PACKED)
    for module in model.modules() if one_dnn() else ():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return model


def reads_packed(model: PreTrainedModel) -> bool:
    """Whether a model takes `packed_inputs`."""
    return bool(model.config._attn_implementation == PACKED)


def packed_inputs(layout: Layout) -> dict[str, Any]:
    """What a prepared model takes to read tokens in one row: (1, N) ids and positions, and how they attend."""
    return {
        "input_ids": layout.ids[None],
        "position_ids": layout.positions[None],
        "attention_mask": layout.ids.new_ones(1, 1, 1, 1),  # four dimensions: transformers makes no mask of its own
        "blocks": tuple((block, block.before()) for block in layout.blocks),
        "homes": layout.homes,
    }


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: tuple[tuple[Block, Tensor | None], ...] | None = None,
    homes: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention in blocks of tokens that stand in one row: query, key, value (1, heads, N, d).

    Without `blocks`, what transformers' own attention does. Returns (1, N, heads, d).
    """
    if blocks is None or homes is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    states = (query.to(value.dtype), key.to(value.dtype), value)  # autocast would do so after they are gathered
    queries, keys, values = ((one[0].transpose(0, 1).flatten(1), one.shape[1]) for one in states)
    attended = [
        _attend(
            module,
            _in_block(*queries, block.queries),
            _in_block(*keys, block.keys),
            _in_block(*values, block.keys),
            before,
            **options,
        )
        for block, before in blocks
    ]
    return torch.cat(attended).index_select(0, homes)[None], None


def _in_block(rows: Tensor, heads: int, block: Tensor) -> Tensor:
    """(N, heads d) to (b, heads, t, d). An embedding's gradient sums in one order, on a GPU as well."""
    return functional.embedding(block, rows).unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    before: Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> Tensor:
    """Attention of the queries of a block, (b, heads, u, d), to its keys, (b, heads, t, d): (b u, heads, d).

    On a CPU torch's own is slow where little is to be done, so there scores that fit into the cache are written out.
    """
    (b, heads, u, d), t = query.shape, key.shape[2]
    single = query.dtype == torch.float32 and query.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not single or b * u * t > SCORES or options.get("dropout"):
        options |= {"scaling": scaling, "is_causal": before is None}
        mask = None if before is None else before.to(query.dtype)
        attended, _ = sdpa_attention_forward(module, query, key, value, mask, **options)
        return attended.flatten(0, 1)
    shared = heads // key.shape[1]  # query heads that share one of key and value
    query, key, value = query.reshape(-1, shared * u, d), key.reshape(-1, t, d), value.reshape(-1, t, value.shape[-1])
    if before is None:
        hidden = query.new_full((u, t), -torch.inf).triu_(1).repeat(shared, 1)
    else:
        hidden = before.expand(b, heads, u, t).reshape(-1, shared * u, t)
    scores = torch.baddbmm(hidden, query, key.mT, alpha=d**-0.5 if scaling is None else scaling)
    return (scores.softmax(dim=-1) @ value).view(b, heads, u, -1).transpose(1, 2).flatten(0, 1)


def _can_read_packed(model: PreTrainedModel) -> bool:
    """Whether every layer attends by an attention that can be exchanged, to all tokens before, by their positions.

    Not so where states are carried along the row, windows are counted in it, or distances in it bias attention.
    """
    config = model.config.get_text_config()
    return (
        model._supports_attention_backend
        and model.config._attn_implementation == "sdpa"
        and not model._is_stateful
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(getattr(config, name, None) for name in ("sliding_window", "window_size", "alibi"))
        and "position_ids" in signature(model.base_model.forward).parameters
    )


def product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states weight^T + bias, (..., i) and (o, i) to (..., o), without a gradient. weight: as it is, or `laid_out`."""
    large = states.numel() * len(weight) >= _LARGE and states.dtype == torch.float32 and states.device.type == "cpu"
    if weight.is_mkldnn or (large and one_dnn()):
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return functional.linear(states, weight, bias)


def laid_out(weight: Tensor) -> Tensor:
    """A copy in the layout that oneDNN reads, into which it brings any other weight anew for each product.

    Worth its memory where many products of few rows read it. A weight for which it is not comes back as it is.
    """
    single = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not single or weight.numel() < _LAID_OUT or not one_dnn():
        return weight
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None))


def weight_gradient(gradient: Tensor, states: Tensor) -> Tensor:
    """gradient^T states, (N, o) and (N, i) to (o, i), without a gradient.

    oneDNN copies what it is given transposed, torch does not: it pays where `gradient` is not the larger of the two and
    every number of it is used often.
    """
    if states.shape[1] >= max(_WIDE, gradient.shape[1]):
        return product(gradient.t(), states.t())
    return gradient.t() @ states


class OneDnnLinear(nn.Linear):
    """A linear layer of fp32 on a CPU."""

    def forward(self, states: Tensor) -> Tensor:
        """(..., i) to (..., o)."""
        single = states.dtype == self.weight.dtype == torch.float32 and states.device.type == "cpu"
        if single and not torch.is_autocast_enabled("cpu"):
            return _Product.apply(states, self.weight, self.bias)
        return super().forward(states)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_states = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = weight_gradient(rows, states.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return of_states, of_weight, of_bias
