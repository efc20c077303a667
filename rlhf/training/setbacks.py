"""Steps whose loss or gradient is not finite: none is applied, and training goes back to its last checkpoint.

    the first time    the same batch is tried again: a passing fault of the machine leaves no trace in the weights
    the second time   it is the batch: it is left out from then on, and its rows of the curves say `skipped`
    max_setbacks      so often in all; then the stage fails

To go back is to start the stage again, which resumes. What happened lies in NOT_FINITE beside the checkpoints, with the
batches, and outlives them: a stage that is killed, or made once more, leaves out the same batches.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf import durable
from rlhf.errors import SetBack, UserError

NOT_FINITE = "not-finite"  # in a stage's work directory


class Setbacks:
    """The batches that were not finite, each named by the first step that learns from it.

    One batch is what lies between two resumable steps: an iteration of an online algorithm is one.
    """

    def __init__(self, work: Path, limit: int) -> None:
        """limit: how many are put up with, `loop.max_setbacks`."""
        self._directory, self._limit = work / NOT_FINITE, limit
        self._file = self._directory / "setbacks.json"
        self._times: dict[str, int] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def leaves_out(self, first: int) -> bool:
        """Whether the batch that begins at step `first` was not finite twice."""
        return self._times.get(str(first), 0) > 1

    def go_back(self, first: int, number: int, micro_batches: Any, *, writes: bool) -> NoReturn:
        """Keep what step `number` learned from. Raises SetBack, or UserError when it happened too often.

        Every process must call it; one of them `writes`.
        """
        path = self._directory / f"step-{number:08d}.safetensors"
        if writes:
            self._directory.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors_in(micro_batches, "micro_batch")), durable.partial(path))
            durable.publish(durable.partial(path), path)
        told = f"The loss or gradient of step {number} is not finite; its batch is in {path}"
        if sum(self._times.values()) >= self._limit:
            raise UserError(
                f"{told}. That was once more than loop.max_setbacks allows: lower the stage's learning_rate"
            )
        times = self._times.get(str(first), 0) + 1
        if writes:
            durable.write_json(self._file, self._times | {str(first): times})
        raise SetBack(f"{told}. {'It is left out' if times > 1 else 'It is tried again'} from the last checkpoint on")


def tensors_in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, array and number in a value made of dataclasses, mappings and sequences, with the way to it."""
    inside: Mapping[Any, Any] = {}
    if isinstance(value, float | int) or hasattr(value, "__array__"):
        yield name, torch.as_tensor(value).detach().cpu().clone().contiguous()
    elif is_dataclass(value):
        inside = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Mapping):
        inside = value
    elif isinstance(value, list | tuple):
        inside = dict(enumerate(value))
    for key, part in inside.items():
        yield from tensors_in(part, f"{name}.{key}")
