"""Weights that are kept on the way, to see where training led before it ended."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from rlhf import durable
from rlhf.models.lora import stored_weights
from rlhf.models.processes import leads
from rlhf.training.sharding import whole_weights
from rlhf.training.step import Step, Steps


class Snapshots:
    """The weights of `model`, whole, after equal shares of its training: `count` of them, in a directory that outlives
    a kill.

    The end of training is not one of them: `count` snapshots cut it into count + 1 parts.
    """

    def __init__(self, model: nn.Module, directory: Path, *, count: int, total_steps: int) -> None:
        self._model, self._directory = model, directory
        self._marks = {round(total_steps * part / (count + 1)) for part in range(1, count + 1)}

    def on_the_way(self, steps: Steps) -> Steps:
        """`steps` as they are; when one is asked for, all before it have been learned, and the weights are theirs."""

        def watched(start: int) -> Iterator[Step]:
            for number, step in enumerate(steps(start), start):
                if number in self._marks:
                    self._keep(number)
                yield step

        return watched

    def copy_to(self, directory: Path, *, end: int) -> None:
        """Copy what was kept of a training of `end` steps; nothing when nothing was. Of several processes one does."""
        for file in self._directory.glob("step-*.safetensors") if leads() else ():
            if int(file.stem.removeprefix("step-")) < end:  # what lies behind was kept before training went back
                shutil.copy(file, directory)

    def _keep(self, number: int) -> None:
        self._directory.mkdir(exist_ok=True)
        target = self._directory / f"step-{number:08d}.safetensors"
        weights = whole_weights(stored_weights(self._model), keep=leads())  # every process joins; the first writes
        if leads():
            save_file(weights, durable.partial(target))
            durable.publish(durable.partial(target), target)
