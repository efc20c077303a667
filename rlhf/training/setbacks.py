"""Batches that do harm: no step that is not finite is applied, none that made the policy diverge stands.

    not finite, the first time     the same batch is tried again: a passing fault of the machine leaves no trace
    not finite, the second time    it is the batch: it is left out from then on
    diverged                       KL passed `max_kl` after the batch: it is left out from then on
    more than max_setbacks         not finite: the stage fails; diverged: training ends with the policy before the batch

What is left out has `skipped` in its rows of the curves. To go back is to start the stage again, which resumes from its
last checkpoint before the batch. What happened lies in SETBACKS beside the checkpoints, with the batches that showed
it, and outlives them: a stage that is killed, or made once more, leaves out the same batches.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NoReturn

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from rlhf import durable
from rlhf.errors import DataError, SetBack, UserError
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.step import Step

SETBACKS = "setbacks"  # in a stage's work directory

Why = Literal["not finite", "diverged"]


class Setbacks:
    """The batches that did harm, each named by the first step that learns from it."""

    def __init__(self, checkpoints: Checkpoints, limit: int) -> None:
        """limit: how many are put up with, `loop.max_setbacks`."""
        self._checkpoints, self._limit, self._processes = checkpoints, limit, PartialState()
        self._directory = checkpoints.directory / SETBACKS
        self._file = self._directory / "setbacks.json"
        self._past: list[dict[str, Any]] = self._read() if self._file.is_file() else []

    def leaves_out(self, batch: int) -> bool:
        """Whether the batch that begins at step `batch` did harm for certain."""
        found = [setback["why"] for setback in self._past if setback["batch"] == batch]
        return "diverged" in found or len(found) > 1

    def end(self, total_steps: int) -> int:
        """The step before which training ends."""
        return self._past[-1]["batch"] if len(self._past) > self._limit else total_steps

    def not_finite(self, number: int, step: Step) -> NoReturn:
        """The loss or gradient of step `number` was not. Raises SetBack, or UserError when it happened too often."""
        told = f"The loss or gradient of step {number} is not finite; its batch is in {self._kept(number, step)}"
        if len(self._past) >= self._limit:
            raise UserError(
                f"{told}. That was once more than loop.max_setbacks allows: lower the stage's learning_rate"
            )
        batch = step.first(number)
        self._remember(batch, "not finite")
        raise SetBack(
            f"{told}. It is {'left out' if self.leaves_out(batch) else 'tried again'} from the last checkpoint on"
        )

    def diverged(self, number: int, step: Step, history: Sequence[dict[str, float]]) -> NoReturn:
        """What was sampled for step `number` passed the limit of KL. Raises SetBack.

        The batch that was learned from last goes, and the policy that sampled it, which was within the limit, returns.
        """
        learned = [int(row["step"]) for row in history if "skipped" not in row]
        batch = step.first(learned[-1]) if learned else 0
        path = self._kept(number, step)
        if self._processes.is_main_process:
            self._checkpoints.forget_after(batch)  # first: who dies in between diverges once more
        self._remember(batch, "diverged")
        raise SetBack(
            f"KL passed max_kl in what was sampled for step {number}; it is in {path}. The batch of step {batch} led "
            f"there: training {'ends before it' if len(self._past) > self._limit else 'goes on without it'}"
        )

    def _kept(self, number: int, step: Step) -> str:
        """Write what step `number` learns from; return where."""
        path = self._directory / f"step-{number:08d}.safetensors"
        if self._processes.is_main_process:
            self._directory.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors_in(step.micro_batches, "micro_batch")), durable.partial(path))
            durable.publish(durable.partial(path), path)
        return str(path)

    def _read(self) -> list[dict[str, Any]]:
        """Raises DataError for a file that is damaged."""
        try:
            past = json.loads(self._file.read_text())
            return [{"batch": int(setback["batch"]), "why": str(setback["why"])} for setback in past]
        except (ValueError, LookupError, TypeError):
            raise DataError(f"{self._file} is damaged. Delete {self._directory.parent}, and train again") from None

    def _remember(self, batch: int, why: Why) -> None:
        self._past.append({"batch": batch, "why": why})
        if self._processes.is_main_process:
            durable.write_json(self._file, self._past)
        self._processes.wait_for_everyone()  # the first to leave has the others ended


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
