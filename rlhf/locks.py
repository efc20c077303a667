"""The kernel's locks on files: one that says who holds it, and many of which any will do. They go with the process that
holds them, however it dies."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rlhf import durable
from rlhf.errors import Busy

POLL = 0.02  # seconds between two tries


@contextmanager
def hold(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock on `path` and leave in it who does. Raises Busy, which names the holder of `what`, where it was not
    free for `patience` seconds."""
    durable.make_private(path.parent)
    with open(path, "a+b", buffering=0) as file:
        if not take(file.fileno(), patience):
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            raise Busy(f"{what} is in use by {holder}. Wait until it ends, or stop it")
        file.truncate(0)
        started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError):  # a full disk: the lock is held all the same
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode())
        try:
            yield
        finally:
            file.truncate(0)


def take(descriptor: int, seconds: float = 0.0) -> bool:
    """Take the lock on an open file, until it is closed; False where another held it for so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)


def take_first(paths: list[Path]) -> tuple[int, int]:
    """Wait for the lock of any one of `paths`; return its place in the list and the descriptor that holds it."""
    descriptors = [_open_shared(path) for path in paths]
    while True:
        for place, descriptor in enumerate(descriptors):
            if take(descriptor):
                for other in descriptors[:place] + descriptors[place + 1 :]:
                    os.close(other)
                return place, descriptor
        time.sleep(0.5)  # flock cannot wait for several files at once


def _open_shared(path: Path) -> int:
    """A lock file of all users of the machine: the first makes it, none writes into it, and no link is followed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileExistsError):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask
        return descriptor
    return os.open(path, flags)
