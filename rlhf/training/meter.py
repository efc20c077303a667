"""What steps measure, left on the device until several are read at once: a read waits for all that is queued."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Unread:
    number: int  # of the step
    names: list[str]
    measured: Tensor  # (2 names + 1,) float64: sum and count of each metric, the norm of the gradient
    count: float  # what the loss is divided by
    known: dict[str, float]  # what is recorded beside


class Meter:
    """Sums of micro-batches and processes to means a step: the loss by the step's count, a metric by its own.

    A metric that counts nothing in a step is left out of it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._unread: list[_Unread] = []

    def add(
        self,
        number: int,
        totals: Mapping[str, tuple[Tensor | float, Tensor | float]],
        norm: Tensor,
        count: float,
        known: dict[str, float],
    ) -> Tensor:
        """Take in a step without waiting for it. Returns whether its loss or gradient is not finite, a bool scalar."""
        names, device = sorted(totals), self._accelerator.device
        sums = torch.stack([_scalar(value, device) for name in names for value in totals[name]])
        if self._accelerator.num_processes > 1:
            sums = self._accelerator.reduce(sums, reduction="sum")
        measured = torch.cat([sums, _scalar(norm, device)[None]])
        self._unread.append(_Unread(number, names, measured, count, known))
        return ~(sums[2 * names.index("loss")] + measured[-1]).isfinite()

    @property
    def unread(self) -> int:
        """Number of steps that were taken in and not read."""
        return len(self._unread)

    def read(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Number and means of the steps since the last read, in one transfer."""
        steps, self._unread = self._unread, []
        values = torch.cat([step.measured for step in steps]).tolist() if steps else []
        for step in steps:
            own, values = values[: len(step.measured)], values[len(step.measured) :]
            pairs = dict(zip(step.names, zip(own[:-1:2], own[1::2], strict=True), strict=True))
            means = {name: total / count for name, (total, count) in pairs.items() if count}
            yield step.number, means | {"loss": pairs["loss"][0] / step.count} | step.known | {"grad_norm": own[-1]}


def _scalar(value: Tensor | float, device: torch.device) -> Tensor:
    """A float64 scalar on `device`; a number is filled in there, since to copy it would wait."""
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=device)
