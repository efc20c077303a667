"""Locks that say who holds them, and locks of which any will do: a stage's, a workspace's, a GPU's."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rlhf import durable
from rlhf.errors import Busy
from rlhf.tracking.locks import take


@contextmanager
def hold(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock on `path` and leave in it who does. Raises Busy, which names the holder of `what`, where it was not
    free for `patience` seconds."""
    durable.make_private(path.parent)
    with open(path, "a+", encoding="utf-8") as file:
        if not take(file.fileno(), patience):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Busy(f"{what} is in use by {holder}. Wait until it ends, or stop it")
        file.truncate(0)
        started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
        file.flush()
        yield
        file.truncate(0)


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
