"""The kernel's lock on a file, waited for: one process at a time does what must not be done twice."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf import durable
from rlhf.errors import Busy


@contextmanager
def locked(path: Path, seconds: float, what: str) -> Iterator[None]:
    """Hold the kernel's lock on `path`, waiting for it at most `seconds`. Raises Busy, saying `what` another does."""
    durable.make_private(path.parent)
    deadline = time.monotonic() + seconds
    with open(path, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"Another process {what} ({path} is locked). Wait until it ends") from None
                time.sleep(0.05)
        yield
