"""Fully sharded data parallelism (FSDP2): parameters, gradients and optimizer state are spread over the processes.

A layer's weights are gathered when it is computed. What else needs weights, to sample and to score, runs while every
process holds them all; files hold them whole.
"""

import os
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf.models.processes import launched
from rlhf.models.recomputation import layers_of

T = TypeVar("T")


def is_wanted() -> bool:
    """Whether `accelerate launch` was given a configuration of FSDP and several processes.

    accelerate itself has none on a CPU, and would look for the layers of one transformer in an objective of several, so
    that it is not asked to shard.
    """
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" and launched() > 1


def shard(objective: nn.Module) -> None:
    """Spread the parameters of `objective`, in place: each layer of its transformers by itself, and the rest."""
    for layer in layers_of(objective):
        fully_shard(layer)
    fully_shard(objective)
    cast(Any, objective).while_whole = MethodType(_while_whole, objective)
    register_fsdp_forward_method(objective, "while_whole")  # what comes first must be a pass forward, by the root


def while_whole(objective: nn.Module, items: Iterator[T]) -> Iterator[T]:
    """`items`, each made while every process holds all weights, as it does when nothing is sharded."""
    if not isinstance(objective, FSDPModule):
        yield from items
        return
    while (item := cast(Any, objective).while_whole(lambda: next(items, None))) is not None:
        yield item


def make_whole(objective: nn.Module) -> None:
    """Give every process all weights and make `objective` the module that it was, in place."""
    if not (sharded := _sharded(objective)):
        return
    for module in sharded:
        module.reshard()
    weights = {p: nn.Parameter(whole(p.detach()), p.requires_grad) for p in objective.parameters()}
    for owner in objective.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            owner.register_parameter(name, weights[parameter])
    for plain in cast(list[nn.Module], sharded):  # `fully_shard` has no way back: its hooks would look for shards
        plain._forward_pre_hooks.clear()
        plain._forward_hooks.clear()
        plain.__class__ = type(plain).__mro__[2]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may hold a shard. Every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(state: dict[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Weights as a file may hold them: on the CPU, whole, and each once; none unless they are to be kept. Every process
    must ask.

    state: of `state_dict(keep_vars=True)`, which gives the tensors themselves.
    """
    tied = doubles(state)
    gathered = ((name, whole(value.detach())) for name, value in state.items() if name not in tied)
    return {name: value.cpu().contiguous() for name, value in gathered if keep}


def doubles(state: dict[str, Tensor]) -> set[str]:
    """Names of tensors that have an earlier name too, as a tied head has: a file refuses them."""
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return set(state) - set(first.values())


def as_sharded(value: Tensor, other: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds when it is sharded as `other` is."""
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def _while_whole(objective: nn.Module, function: Callable[[], T]) -> T:
    """What `function` returns, called while this process holds all weights."""
    for module in _sharded(objective):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    result = function()
    for module in _sharded(objective):
        module.set_reshard_after_forward(module is not objective, recurse=False)
        module.reshard()
    return result


def _sharded(objective: nn.Module) -> list[FSDPModule]:
    return [module for module in objective.modules() if isinstance(module, FSDPModule)]
