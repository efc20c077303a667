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
from rlhf.errors import DataError

_KEPT = 2


class Checkpoints:
    """The checkpoints of one stage, in `directory`, the last two of them kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(
        self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
    ) -> None:
        """Write what training needs to go on after `step` optimizer steps; whole or not at all."""
        state = optimizer.state_dict()["state"]
        tensors = {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}
        target = self._directory / f"step-{step:08d}"
        path = durable.partial(target)
        durable.remove(path)
        path.mkdir(parents=True)
        save_file(_learned(module), path / "weights.safetensors")
        save_file(tensors, path / "optimizer.safetensors")
        (path / "state.json").write_text(json.dumps({"step": step, "history": history}))
        manifest.write_manifest(path)
        durable.publish(path, target)
        for old in sorted(self._directory.glob("step-*"))[:-_KEPT]:
            durable.remove(old)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
        """Load the newest checkpoint that is whole; return its step and curves, or (0, []) when there is none."""
        for path in sorted(self._directory.glob("step-*"), reverse=True):
            try:
                manifest.digest(path)
            except DataError:  # torn; the one before it is kept for this
                continue
            weights, tensors = load_file(path / "weights.safetensors"), load_file(path / "optimizer.safetensors")
            assert weights.keys() == _learned(module).keys(), weights.keys() ^ _learned(module).keys()
            module.load_state_dict(weights, strict=False)
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                index, name = key.split(".", 1)
                state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            saved = json.loads((path / "state.json").read_text())
            return saved["step"], saved["history"]
        return 0, []


def unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One of each tensor: safetensors refuses those that share memory, as a head does that is tied to embeddings."""
    first = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    return {name: tensor.contiguous() for name, tensor in state.items() if first[tensor.data_ptr()] == name}


def _learned(module: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: buffers, and parameters unless they are frozen."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return unshared({name: tensor for name, tensor in module.state_dict().items() if name not in frozen})
