"""Failpoints: places, by name, where a test lets the process die or an operation fail. Nothing happens otherwise.

    RLHF_FAILPOINT=hits            every process appends each place that it comes to, a line each, to the file `hits`
    RLHF_FAILPOINT=hits:17:kill    and whoever comes to the 17th place of all suffers the fault

A line is the place and, behind a tab, the file that is in hand there. Counting in one file, under the kernel's lock,
makes a place mean the same however many processes a run has, as long as they come one after the other.
"""

import errno
import fcntl
import os
import signal
from pathlib import Path

FAILPOINT = "RLHF_FAILPOINT"
# What happens at a place. A torn write leaves half of what was written, as a machine that loses power does; a disk that
# is full stays so for everything that is written after it; an error of the disk comes once.
FAULTS = ("kill", "torn", "full", "error")
_ERRORS = {"full": errno.ENOSPC, "error": errno.EIO}


def reach(place: str, file: Path | None = None, fresh: int | None = None) -> None:
    """Say that the program is at `place`, and has `file` in hand, written but not yet on disk: all of it, or the last
    `fresh` bytes. Of a directory, the largest file is the one that tears.

    Raises OSError where the fault is a full disk or a broken one; does not return where it is death.
    """
    if plan := os.environ.get(FAILPOINT):
        hits, _, fault = plan.partition(":")
        number, _, kind = fault.partition(":")
        found = _count(Path(hits), f"{place}\t{file.name}" if file else place)
        if number and (found == int(number) or (kind == "full" and file and found > int(number))):
            _suffer(kind, place, file, fresh)


def _count(hits: Path, place: str) -> int:
    """Note that a place was reached; return how many were, over all processes."""
    with open(hits, "a+", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(f"{place}\n")
        lines.flush()
        lines.seek(0)
        return sum(1 for _ in lines)


def _suffer(kind: str, place: str, file: Path | None, fresh: int | None) -> None:
    if kind in _ERRORS:
        raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]), str(file or place))
    if kind not in FAULTS:
        raise ValueError(f"{FAILPOINT} names the fault `{kind}`; there are {', '.join(FAULTS)}")
    if kind == "torn" and file:
        _tear(file, fresh)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(path: Path, fresh: int | None) -> None:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if files:
        file = max(files, key=lambda file: (file.stat().st_size, file.name))
        size = file.stat().st_size
        os.truncate(file, size - ((size if fresh is None else fresh) + 1) // 2)
