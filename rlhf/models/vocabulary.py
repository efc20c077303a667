"""Log-probabilities of chosen tokens, with no more than a chunk of the logits (N, V) in memory.

    log p(a) = z_a - log sum_j exp z_j          dz_j = (1[j = a] - p_j) dlog p(a) - p_j (log p_j + H) dH
    H        = - sum_j p_j log p_j

The backward pass makes the logits of a chunk again, and turns them into their gradient in place. Logits that all fit
into one chunk are kept from the forward pass instead. Softmax in fp32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from rlhf.batching.layout import rounded
from rlhf.models.kernels import product, weight_gradient
from rlhf.models.machine import product_dtype

# Logits of a chunk. A processor has enough to do with few rows; an accelerator idles on less than some hundreds.
_CPU_BYTES, _ACCELERATOR_BYTES = 2**26, 2**29


def chosen_log_probs(
    states: Tensor, head: nn.Linear, ids: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each id, (N,), and the entropy in nats of its distribution, (N,), if asked for.

    states: (N, d) from which the ids, (N,), are predicted. head: d to V. The logits are divided by `temperature`.
    """
    count, more = len(states), rounded(len(states)) - len(states)
    scaled, bias = _scaled(pad(states, (0, 0, 0, more)), head, temperature)
    log_probs, entropies = _Chosen.apply(scaled, head.weight, bias, pad(ids, (0, more)), _rows(head), entropy)
    return log_probs[:count], None if entropies is None else entropies[:count]


@torch.no_grad()
def divergence(
    states: Tensor, head: nn.Linear, other_states: Tensor, other_head: nn.Linear, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """KL(p || q) and the entropy of p, in nats, (N,) each, where p and q are predicted from states and other_states.

        KL = sum_j p_j (log p_j - log q_j)          H = - sum_j p_j log p_j

    The rest as in `chosen_log_probs`. Without a gradient.
    """
    count, more = len(states), rounded(len(states)) - len(states)
    found = states.new_empty((2, count + more), dtype=torch.float32)
    predicted = []
    for read, by in ((states, head), (other_states, other_head)):
        scaled, bias = _scaled(pad(read, (0, 0, 0, more)), by, temperature)
        predicted.append((scaled, by.weight.to(scaled.dtype), bias))
    for part in _chunks(count + more, max(1, _rows(head) // 2)):
        log_p, log_q = (_log_softmax(scaled[part], weight, bias) for scaled, weight, bias in predicted)
        p = log_p.exp()
        found[0, part], found[1, part] = (p * (log_p - log_q)).sum(dim=-1), -(p * log_p).sum(dim=-1)
    return found[0, :count].clamp(min=0.0), found[1, :count]  # where both are equal, rounding may give less than none


class _Chosen(torch.autograd.Function):
    """(states, weight, bias, ids, rows of a chunk, whether entropy is asked for) to (log-probabilities, entropy)."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, size: int, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        weight = weight.to(states.dtype)  # in here, so that its gradient stays in fp32
        log_probs = torch.empty(len(states), device=states.device)
        entropies = torch.empty_like(log_probs) if entropy else None
        kept = None
        for part in _chunks(len(states), size):
            log_softmax = _log_softmax(states[part], weight, bias)
            log_probs[part] = log_softmax.gather(-1, ids[part, None]).squeeze(-1)
            if entropies is not None:
                entropies[part] = -(log_softmax.exp() * log_softmax).sum(dim=-1)
            kept = log_softmax if len(states) <= size else None
        ctx.save_for_backward(states, weight, bias, ids, entropies, kept)
        ctx.size = size
        ctx.set_materialize_grads(False)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_probs: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, bias, ids, entropies, kept = ctx.saved_tensors
        of_log_probs = states.new_zeros(len(states), dtype=torch.float32) if of_log_probs is None else of_log_probs
        of_states = torch.empty_like(states)
        of_weight: Tensor | None = None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for part in _chunks(len(states), ctx.size):
            log_softmax = _log_softmax(states[part], weight, bias) if kept is None else kept
            slope = -of_log_probs[part, None]
            if of_entropy is not None:
                slope = slope - of_entropy[part, None] * (log_softmax + entropies[part, None])
            gradient = log_softmax.exp_().mul_(slope).scatter_add_(-1, ids[part, None], of_log_probs[part, None])
            if of_bias is not None:
                of_bias += gradient.sum(dim=0)
            gradient = gradient.to(states.dtype)
            of_states[part] = product(gradient, weight.t())
            if ctx.needs_input_grad[1]:
                of_part = weight_gradient(gradient, states[part]).float()
                of_weight = of_part if of_weight is None else of_weight.add_(of_part)
        return of_states, of_weight, of_bias, None, None, None


def _rows(head: nn.Linear) -> int:
    """Rows of a chunk of logits."""
    return max(1, (_CPU_BYTES if head.weight.device.type == "cpu" else _ACCELERATOR_BYTES) // (4 * len(head.weight)))


def _scaled(states: Tensor, head: nn.Linear, temperature: float) -> tuple[Tensor, Tensor | None]:
    """States (N, d) and bias (V,) that give the logits over the temperature, in the type that they are computed in."""
    dtype = product_dtype(states)
    return (states / temperature).to(dtype), None if head.bias is None else (head.bias / temperature).to(dtype)


def _log_softmax(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product(states, weight, bias).log_softmax(dim=-1, dtype=torch.float32)


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))
