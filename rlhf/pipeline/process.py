"""What every stage process does to itself: it dies with its parent, takes a GPU, keeps freed memory, heeds SIGTERM.

`python -m rlhf.pipeline.process PARENT dvc ...` runs dvc as a process that dies with PARENT.
"""

import ctypes
import faulthandler
import os
import re
import resource
import runpy
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import psutil

from rlhf import telemetry
from rlhf.errors import Exit
from rlhf.garbage import leave_out_loaded, loading
from rlhf.locks import take_first

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh", "mksh", "ash", "busybox"}
ENVIRONMENT = telemetry.OFF | {
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # a GPU has one number in all processes
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",  # kernels that it keeps, up to a megabyte each
}


def prepare() -> None:
    """Everything that a stage's process does to itself before it works."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # of a GPU: batches differ in length
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it holds every secret
    die_with_parent()
    keep_freed_memory()
    leave_out_loaded()
    exit_on_sigterm()
    tell_where_on_sigusr1()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies.

    DVC runs a stage through a shell, and a shell that does not exec stands between the two: then the shell's parent is
    watched too. Linux only; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.getppid()
    if parent > 1 and Path(f"/proc/{parent}/comm").read_text().strip() in SHELLS and "DVC_STAGE" in os.environ:
        fields = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
        descriptor = os.pidfd_open(int(fields[1]))  # raises when it is gone already, and so ends this process
        threading.Thread(target=_die_with, args=(descriptor,), daemon=True).start()


def _die_with(descriptor: int) -> None:
    """Wait until the process behind a pidfd is gone, then go too."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def keep_freed_memory() -> None:
    """Have glibc hand freed memory out again instead of giving it back to the kernel, which must clear each page anew.

    Logits and gradients on a CPU are megabytes that every step frees and takes again: without this, a third of a step
    is page faults. M_MMAP_THRESHOLD takes no more than 32 MB, which would leave out the gradient of a vocabulary.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def exit_on_sigterm() -> None:
    """SIGTERM raises SystemExit(PREEMPTED) in the main thread, where a training loop can still save a checkpoint."""

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; a second must not break the checkpoint
        raise SystemExit(Exit.PREEMPTED)

    signal.signal(signal.SIGTERM, leave)


def tell_where_on_sigusr1() -> None:
    """SIGUSR1 writes the stacks of all threads to stderr, whatever they are stuck in, and changes nothing else."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Index or UUID of every GPU that may be used: those of CUDA_VISIBLE_DEVICES, or one for each /dev/nvidia<n>.

    CUDA counts from 0, whatever number the device of the one GPU in a container has.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [entry.strip() for entry in visible.split(",") if entry.strip() not in ("", "-1")]
    return [str(number) for number in range(sum(bool(re.fullmatch(r"nvidia\d+", d.name)) for d in devices.iterdir()))]


def take_gpu(candidates: list[str]) -> str | None:
    """Wait for a GPU that no other stage on this machine holds and return it; None without candidates.

    The lock lasts as long as the process.
    """
    if not candidates:
        return None
    names = [re.sub(r"[^\w-]", "_", candidate) for candidate in candidates]
    place, _ = take_first([Path(tempfile.gettempdir(), f"rlhf-gpu-{name}.lock") for name in names])
    return candidates[place]


def start_again() -> NoReturn:
    """Become a fresh process of the same command, with the number, the parent and the limits of this one.

    All memory is given back and all locks are let go. Buffers must have been written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_alive(process: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main(arguments: list[str]) -> None:
    """Run a module of Python as `python -m` would, in a process that dies with the parent named first."""
    parent, module, *rest = arguments
    die_with_parent()
    if os.getppid() != int(parent):
        sys.exit(Exit.PREEMPTED)
    sys.argv = [module, *rest]
    with loading():
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
