"""Errors that are a user's to mend, and the exit code of each: one sentence of what is wrong, where, and what to do."""

from enum import IntEnum


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
    DISK_FULL = 15
    RETRYABLE = 20
    OUT_OF_MEMORY = 21
    PREEMPTED = 22


RETRIED = frozenset({Exit.RETRYABLE, Exit.OUT_OF_MEMORY, Exit.PREEMPTED})


def printable(text: str) -> str:
    """What a model or a person wrote, without what would steer a terminal: escapes, backspaces, reversed writing."""
    kept = "\n\t\u200c\u200d"  # the last two join letters and signs of some languages
    return "".join(char if char.isprintable() or char in kept else "\N{REPLACEMENT CHARACTER}" for char in text)


class UserError(Exception):
    """A fault that the user can mend. Its text is shown without a traceback; what it quotes steers no terminal."""

    exit = Exit.FAILED

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(UserError):
    """params.yaml or dvc.yaml says something that cannot be."""

    exit = Exit.CONFIG


class DataError(UserError):
    """A file, a row or a model directory is not what it must be."""

    exit = Exit.DATA


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
    """No space is left where an output must go."""

    exit = Exit.DISK_FULL


class Retryable(UserError):
    """A passing fault: the same stage may succeed when it is tried again."""

    exit = Exit.RETRYABLE
