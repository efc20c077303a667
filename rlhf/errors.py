"""Errors that are a user's to mend, and the exit code of each: one sentence of what is wrong, where, and what to do."""

import errno
import os
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path

from rlhf.secrets import redact
from rlhf.text import printable


class Exit(IntEnum):
    """Exit codes of stages and of `rlhf`. Only RETRYABLE, OUT_OF_MEMORY and PREEMPTED are retried."""

    DONE = 0
    FAILED = 1  # a fault of the program: the only one that shows a traceback
    USAGE = 2  # the command line itself
    CONFIG = 10  # params.yaml, dvc.yaml
    DATA = 11  # rows, files, models that are not what they must be
    GATE_REFUSED = 12
    BUSY = 13  # another run holds the workspace
    SERVICE = 14  # a server that does not answer, a port in use
    DISK_FULL = 15  # the disk takes no more: bytes, files, a quota, a limit of size, or it is read-only
    RETRYABLE = 20
    OUT_OF_MEMORY = 21
    PREEMPTED = 22


RETRIED = frozenset({Exit.RETRYABLE, Exit.OUT_OF_MEMORY, Exit.PREEMPTED})


def first_line(error: BaseException) -> str:
    """What an error says first, without secrets; its name where it says nothing."""
    return (redact(str(error)).strip().splitlines() or [type(error).__name__])[0]


class UserError(Exception):
    """A fault that the user can mend. Its text is shown without a traceback; no secret is in it, and what it quotes
    steers no terminal."""

    exit = Exit.FAILED

    def __init__(self, text: str) -> None:
        super().__init__(redact(text))

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(UserError):
    """params.yaml or dvc.yaml says something that cannot be."""

    exit = Exit.CONFIG


class DataError(UserError):
    """A file, a row or a model directory is not what it must be."""

    exit = Exit.DATA


def require_format(file: Path, found: object, known: int) -> None:
    """Raises DataError for a file of another format than this version reads: what it means is not guessed."""
    if found != known:
        raise DataError(
            f"{file} is of format {found}, and this rlhf reads format {known}. Use the rlhf that wrote it, or move the "
            "file away and run again"
        )


class GateRefused(UserError):
    """A promotion that the gate's decision does not allow."""

    exit = Exit.GATE_REFUSED


class Busy(UserError):
    """Another process holds what this one needs; the text names the holder."""

    exit = Exit.BUSY


class ServiceError(UserError):
    """A server does not answer, or its port is taken."""

    exit = Exit.SERVICE


class DiskFull(UserError):
    """Where an output must go, the disk takes no more."""

    exit = Exit.DISK_FULL

    @classmethod
    def behind(cls, error: BaseException, place: Path) -> "DiskFull | None":
        """What is meant by an error that a full disk, or one that cannot be written, gave; None for any other error.

        `place` is where the program writes, for an error that names no file. Libraries in Rust and C++ keep only the
        text of the error.
        """
        number = error.errno if isinstance(error, OSError) else None
        if os.strerror(errno.ENOSPC) in str(error):
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return None
        file = Path(getattr(error, "filename", None) or place)
        there = next(parent for parent in [file.absolute(), *file.absolute().parents] if parent.exists())
        mount = next(parent for parent in [there, *there.parents] if parent.is_mount())
        return cls(f"{_refusal(number, file, mount)}, and run again; earlier outputs are untouched")


def require_free(directory: Path, needed: float, takes: str, undone: str) -> None:
    """Raises DiskFull where fewer than `needed` bytes are free for a directory, which need not be there yet.

    `takes` says what will take them, up to their number; `undone`, what has not been begun.
    """
    there = next(path for path in [directory, *directory.parents] if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DiskFull(
            f"{free / 1e6:,.0f} MB are free for {directory}, and {takes} {needed / 1e6:,.0f} MB. "
            f"Make room and run again; {undone}"
        )


class Retryable(UserError):
    """A passing fault: the same stage may succeed when it is tried again."""

    exit = Exit.RETRYABLE


class SetBack(Retryable):
    """Work that must be begun again at its last checkpoint, at once."""


def suggestion(name: str, known: Iterable[str], above: str = "") -> str:
    """What may have been meant by a name that there is not; `above` comes before a name to make it a whole key."""
    names = list(known)
    if near := get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean `{above}{near[0]}`?"
    return f"known here: {', '.join(names)}"


def _refusal(number: int, file: Path, mount: Path) -> str:
    """What is wrong with a disk, and what to do."""
    if number == errno.EROFS:
        return f"{file} cannot be written: the file system of {mount} is read-only. Mount it for writing"
    if number == errno.EFBIG:
        return (
            f"{file} may not grow larger: of a process's limit (ulimit -f), or of the file system of {mount}. Raise it"
        )
    if number == errno.EDQUOT:
        return (
            f"{file} cannot be written: the quota on the file system of {mount} is used up. Make room or have it raised"
        )
    usage, files = shutil.disk_usage(mount), os.statvfs(mount)
    free, total = (f"{size / 1e6:,.0f}" for size in (usage.free, usage.total))
    inodes = f" and {files.f_favail:,} of {files.f_files:,} inodes" if files.f_files else ""
    return (
        f"no space is left for {file}: {free} of {total} MB are free{inodes} on the file system of {mount}. Make room"
    )
