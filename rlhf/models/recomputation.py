"""Gradient checkpointing: layers keep their inputs alone and compute the rest again backward (Chen et al. 2016,
arXiv:1604.06174). A third more time for a memory of activations that grows with one layer instead of all.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(module: nn.Module) -> None:
    """Have every layer of the transformers in `module` compute its activations again in the backward pass, if it does
    not yet.

    transformers' own switch takes effect in training mode alone, where models drop out, and takes the cache away from
    sampling. This one takes effect wherever a gradient is recorded.
    """
    for layer in layers_of(module):
        if getattr(layer.forward, "func", None) is not _forward:
            layer.forward = partial(_forward, layer.forward)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Every layer of the transformers in `module`."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


def _forward(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
