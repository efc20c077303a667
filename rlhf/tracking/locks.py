"""The kernel's locks on files, waited for. They go with the process that holds them, however it dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf import durable
from rlhf.errors import Busy

POLL = 0.02  # seconds between two tries


@contextmanager
def locked(path: Path, seconds: float, what: str) -> Iterator[None]:
    """Hold the lock on `path`, waiting for it at most `seconds`. Raises Busy, saying `what` another does."""
    durable.make_private(path.parent)
    with open(path, "ab") as file:
        if not take(file.fileno(), seconds):
            raise Busy(f"Another process {what} ({path} is locked). Wait until it ends")
        yield


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
