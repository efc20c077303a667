"""Tensors that are computed once and kept in a file, whose name stands for everything that determines their bits.

A file appears whole or not at all, whoever writes it at the same time, and carries the SHA-256 of what it holds: one
that is damaged is computed again, never used. What it holds is mapped into memory and read from the disk as it is used.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rlhf import durable
from rlhf.models.machine import autocasts, one_dnn
from rlhf.models.processes import true_everywhere

_LIMIT = 16 * 2**30  # bytes of a directory; beyond it, what has not been used for longest goes
_ABANDONED = 24 * 3600  # seconds after which an unfinished file is that of a process that was killed
_DIGEST = "sha256"


def cached(path: Path, compute: Callable[[], Mapping[str, Any]], *, limit: int = _LIMIT) -> dict[str, Tensor]:
    """What `compute` gives (tensors or arrays, by name), on the CPU: from `path` if it has been computed before.

    Several processes that share the computing find it there together, or compute it.
    """
    found = _read(path)
    there = true_everywhere(found is not None)
    if found is not None and there:
        with suppress(FileNotFoundError):  # another process made room
            os.utime(path)
    else:
        made = {name: torch.as_tensor(values).cpu().contiguous() for name, values in compute().items()}
        _write(path, made)
        _make_room(path, limit)
        found = _read(path) or made  # those of the file need no memory
    return found


def whole(path: Path) -> bool:
    """Whether a file holds what was computed."""
    return _read(path) is not None


def arithmetic(model: PreTrainedModel) -> dict[str, Any]:
    """What determines the bits of a forward pass beside weights, batch, code and versions of packages, as JSON."""
    kind = model.device.type
    chip = torch.cuda.get_device_name(model.device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": f"{kind} {chip}",
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype),
        "autocast": autocasts(),
        "matmul": torch.get_float32_matmul_precision(),
        "attention": model.config._attn_implementation,
        "oneDNN": one_dnn(),
    }


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
    return tensors if metadata == {_DIGEST: _digest(tensors)} else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{durable.PARTIAL}{os.getpid()}-{path.name}")  # others may be writing the same
    try:
        save_file(tensors, own, metadata={_DIGEST: _digest(tensors)})
        durable.publish(own, path)
    finally:
        own.unlink(missing_ok=True)


def _make_room(written: Path, limit: int) -> None:
    """Remove the files beside `written` that were used least recently, until all are within `limit` bytes."""
    files = list[tuple[float, int, Path]]()
    for file in written.parent.iterdir():
        with suppress(FileNotFoundError):  # another process makes room too
            status = file.stat()
            if not file.name.startswith(durable.PARTIAL) or time.time() - status.st_mtime > _ABANDONED:
                files.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total > limit and file != written:
            file.unlink(missing_ok=True)
            total -= size


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # a tensor of one number may have any stride
        whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()
