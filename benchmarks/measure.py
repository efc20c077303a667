"""One measurement in a fresh process: its time, its peak memory, and the losses that must be equal."""

import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.profiler import profile

from rlhf.models.kernels import product
from rlhf.serving import peak_memory

Overlay = dict[str, list[float]]  # what is laid over each other, step by step: loss, grad_norm, or a token

MB = 2**20


def memory_mb() -> float:
    """The most memory that this process has had: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MB
    return peak_memory() / MB


@dataclass(slots=True)
class Measurement:
    """What a process reports."""

    seconds: float
    units: float  # rows, pairs or completions that were done in them
    tokens: float  # of those; tokens of padding do not count
    overlay: Overlay
    peak_mb: float = field(default_factory=memory_mb)  # above what the loaded libraries take


class Clock:
    """Starts after the warm-up, stops with the last step, and a profiler with it. A recorder of rlhf.training.loop."""

    def __init__(self, warmup: int, steps: int, profiler: profile | None = None) -> None:
        self._warmup, self._steps, self._profiler, self.seconds = warmup, steps, profiler, 0.0
        self._start = now()

    def progress(self, done: int, total: int, label: str = "") -> None:
        """A step is done."""
        if done == self._warmup:
            if self._profiler:
                self._profiler.start()
            self._start = now()
        if done == self._steps:
            self.seconds = now() - self._start
            if self._profiler:
                self._profiler.stop()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Nothing is kept."""


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_fresh_process(function: str, *arguments: Any, method: str = "forkserver", path: str | None = None) -> Any:
    """What a function (`module.name`) returns in a process of its own, which has loaded it and done nothing else.

    method: `spawn` loads the libraries anew, from `path` first. Raises RuntimeError with the process's traceback.
    """
    context: Any = get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, path, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        failed, value = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function} ended without a word, exit code {process.exitcode}") from None
    finally:
        process.join()
    if failed:
        raise RuntimeError(value)
    return value


def _report(sender: Connection, path: str | None, function: str, arguments: tuple[Any, ...]) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)  # progress bars and warnings of the peer
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if path:
        sys.path.insert(0, path)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    module, _, name = function.rpartition(".")
    try:
        called = getattr(import_module(module), name)
        loaded = memory_mb()
        value = called(*arguments)
        if isinstance(value, Measurement):
            value.peak_mb -= loaded
        sender.send((False, value))
    except Exception:
        sender.send((True, traceback.format_exc()))


def matmul_rate() -> float:
    """Floating-point operations a second of a large matrix product in the precision of training: the best of ten, by
    the faster of torch's product and the one that ours uses (rlhf/models/kernels.py)."""
    gpu = torch.cuda.is_available()
    size, dtype, where = (8192, torch.bfloat16, "cuda") if gpu else (2048, torch.float32, "cpu")
    a, b = torch.randn(size, size, dtype=dtype, device=where), torch.randn(size, size, dtype=dtype, device=where)
    times = []
    for _ in range(10):
        for multiply in (product, functional.linear):
            start = now()
            multiply(a, b)
            times.append(now() - start)
    return 2 * size**3 / min(times)


def compare(overlays: dict[str, Overlay], tolerance: float) -> tuple[dict[str, float], str]:
    """The largest difference of each value from ours, relative where it is above 1, and what is wrong if anything."""
    worst: dict[str, float] = {}
    for side, theirs in overlays.items():
        for name, values in overlays["ours"].items():
            ours, peers = np.array(values), np.array(theirs.get(name, []))
            if ours.shape != peers.shape:
                return worst, f"{len(ours)} values of {name} here, {len(peers)} of TRL {side}"
            difference = float((np.abs(ours - peers) / np.maximum(1.0, np.abs(ours))).max())
            worst[name] = max(difference, worst.get(name, 0.0))
            if not difference <= tolerance:  # nor when it is not a number
                return worst, f"{name} differs from TRL {side} by {difference:.1e}, above {tolerance:.0e}"
    return worst, ""
