"""Failpoints: places, by name, where a test lets the process die or an operation fail. Nothing happens otherwise.

    RLHF_FAILPOINT=hits            every process appends the name of each place that it comes to, a line each, to `hits`
    RLHF_FAILPOINT=hits:17:kill    and whoever comes to the 17th place of all suffers the fault

Counting in one file, under the kernel's lock, makes a place mean the same however many processes a run has, as long as
they come one after the other.
"""

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import NoReturn

FAILPOINT = "RLHF_FAILPOINT"
# What happens at a place. A torn write leaves half a file, as a machine that loses power does.
FAULTS = ("kill", "torn", "full", "error")
_ERRORS = {"full": errno.ENOSPC, "error": errno.EIO}


def reach(place: str, file: Path | None = None) -> None:
    """Say that the program is at `place`, and has `file` in hand, written but not yet on disk.

    Raises OSError where the fault is a full disk or a broken one; does not return where it is death.
    """
    if plan := os.environ.get(FAILPOINT):
        hits, _, fault = plan.partition(":")
        number, _, kind = fault.partition(":")
        if _count(Path(hits), f"{place} {file.name}" if file else place) == int(number or 0):
            _suffer(kind, place, file)


def _count(hits: Path, place: str) -> int:
    """Note that a place was reached; return how many were, over all processes."""
    with open(hits, "a+", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(f"{place}\n")
        lines.flush()
        lines.seek(0)
        return sum(1 for _ in lines)


def _suffer(kind: str, place: str, file: Path | None) -> NoReturn:
    if kind in _ERRORS:
        raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]), str(file or place))
    if kind not in FAULTS:
        raise ValueError(f"{FAILPOINT} names the fault `{kind}`; there are {', '.join(FAULTS)}")
    if kind == "torn" and file and file.is_file():
        os.truncate(file, file.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: the kernel has killed this process")
