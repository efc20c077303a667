"""Checkpoints that a killed stage resumes from, bit for bit: what learns, optimizer state, step, the curves so far.

Randomness needs no saving: every draw is a function of the seed and the step (rlhf/batching/order.py,
rlhf/rollouts/sampling.py).
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf import durable, manifest
from rlhf.errors import DataError, require_format, require_free
from rlhf.failpoints import reach
from rlhf.training.sharding import as_sharded, doubles, whole, whole_weights

_KEPT = 2
FORMAT = 1  # of a checkpoint


class Checkpoints:
    """The checkpoints of one stage, in `directory`, the last two of them kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory  # where they are, and what else of training its next process must know

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        history: list[dict[str, Any]],
        *,
        writes: bool = True,
    ) -> None:
        """Write what training needs to go on after `step` optimizer steps; whole or not at all.

        Every process must call it, since shards are gathered; one of them `writes`.
        """
        state = optimizer.state_dict()["state"]
        moments = ((f"{i}.{name}", value) for i, entry in state.items() for name, value in entry.items())
        tensors = {name: value.cpu() for name, value in ((name, whole(value)) for name, value in moments) if writes}
        weights = whole_weights(learned(module), keep=writes)
        if not writes:
            return
        target = self.directory / f"step-{step:08d}"
        path = durable.partial(target)
        durable.remove(path)
        path.mkdir(parents=True)
        save_file(weights, path / "weights.safetensors")
        reach("saved", path / "weights.safetensors")
        save_file(tensors, path / "optimizer.safetensors")
        reach("saved", path / "optimizer.safetensors")
        (path / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, "history": history}))
        reach("saved", path / "state.json")
        manifest.write_manifest(path)
        durable.publish(path, target)
        for old in sorted(self.directory.glob("step-*"))[:-_KEPT]:
            durable.remove(old)

    def forget_after(self, step: int) -> None:
        """Remove those of more than `step` steps."""
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            if int(path.name.removeprefix("step-")) > step:
                durable.remove(path)

    def require_room(self, module: nn.Module) -> None:
        """Raises DiskFull where the checkpoints of a training to come, and what it leaves, do not fit on the disk."""
        weights = sum(value.nbytes for value in learned(module).values())
        moments = 2 * sum(p.nbytes for p in module.parameters() if p.requires_grad)  # of AdamW
        needed = (_KEPT + 1) * (weights + moments) + weights  # one is written before the oldest goes
        require_free(self.directory, needed, "checkpoints of this model take up to", "nothing was trained")

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
        """Load the newest checkpoint that is whole; return its step and curves, or (0, []) when there is none."""
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            try:
                manifest.verified(path)
            except DataError:  # torn; the one before it is kept for this
                continue
            saved = json.loads((path / "state.json").read_text())
            require_format(path / "state.json", saved.get("format"), FORMAT)
            weights, tensors = load_file(path / "weights.safetensors"), load_file(path / "optimizer.safetensors")
            own = learned(module)
            wanted = own.keys() - doubles(own)
            assert weights.keys() == wanted, weights.keys() ^ wanted
            module.load_state_dict(
                {name: as_sharded(value, own[name]) for name, value in weights.items()}, strict=False
            )
            state: dict[int, dict[str, torch.Tensor]] = {}
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for key, value in tensors.items():
                index, name = key.split(".", 1)
                like = value if value.ndim == 0 else parameters[int(index)]
                state.setdefault(int(index), {})[name] = as_sharded(value, like)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            return saved["step"], saved["history"]
        return 0, []


def learned(module: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, the tensors themselves: buffers, and parameters unless they are frozen."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if value.requires_grad or not isinstance(value, nn.Parameter)}
