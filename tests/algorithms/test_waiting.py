"""A step asks its device for nothing. A GPU would have to work off all that is queued before it could answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.algorithms.online import MicroBatch
from rlhf.training.learner import Learner, in_precision_of, make_accelerator
from rlhf.training.optimizer import make_optimizer
from tests.algorithms.test_invariants import ALGORITHMS, make
from tests.algorithms.tiny import loop

aten = torch.ops.aten
ASKS = {  # what gives the host a value, or a tensor as large as the values of another say
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
}
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class AsksNothing(TorchDispatchMode):
    """Refuses such an operation where it is called, in a backward pass too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype == torch.bool] if function in INDEXES else []
        asks = bool(masks) or function in ASKS
        assert not asks, f"{function} asks the device"
        return function(*args, **kwargs or {})


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Autocast, as a GPU has it. A process has one precision: accelerate forgets that of the other tests, and this."""
    monkeypatch.setenv("RLHF_PRECISION", "bf16")
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@contextmanager
def asks_nothing() -> Iterator[None]:
    if not torch.cuda.is_available():
        with AsksNothing():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "gdpo_belief" or torch.cuda.is_available()])
@pytest.mark.usefixtures("bf16")
def test_a_step_asks_its_device_for_nothing(name: str, sft: Path) -> None:
    """But for the ratio of an iteration's first minibatch, which is checked then and there; and gdpo_belief makes a
    batch of polls in between, on the host, which only a GPU tells apart."""
    objective, steps, total, config = make(name, sft, loop(micro_batch_size=3))
    accelerator = make_accelerator()
    objective.to(accelerator.device)
    step = next(in_precision_of(accelerator, steps(0)))
    later = [replace(each, first=False) if isinstance(each, MicroBatch) else each for each in step.micro_batches]
    learner = Learner(objective, make_optimizer(objective, config.optimizer), accelerator, config.optimizer, total)
    learner.learn(0, step)  # makes the optimizer's moments
    with asks_nothing():
        learner.learn(1, replace(step, micro_batches=later))
    assert [number for number, _ in learner.meter.read()] == [0, 1]


def test_what_asks_is_found() -> None:
    mask = torch.tensor([True, False])
    for asks in (lambda: mask[mask], lambda: int(mask.sum()), lambda: mask.nonzero(), lambda: mask.any() and 1):
        with pytest.raises(AssertionError, match="asks the device"), AsksNothing():
            asks()
