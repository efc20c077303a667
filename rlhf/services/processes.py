"""A detached process that holds the lock on a record of itself, by which a later command finds it and stops it alone.

The record is its standard input. It and its children thereby hold the lock, which the kernel lets go when the last of
them ends; and a process whose standard input is another file is not the one that the record tells of.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable
from rlhf.errors import ServiceError
from rlhf.failpoints import reach
from rlhf.locks import take

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
ENDING = 0.5  # seconds in which a process that was killed lets go of its files
RECORD = re.compile(r"(\d{1,9}) (\S+)\n")
# It writes its record before it is a server: whoever starts it may die, and it is found all the same.
BEGIN = ["/bin/sh", "-c", 'printf "%s %s\\n" "$$" "$0" >&0 && exec "$@"']


@dataclass(frozen=True)
class Process:
    """A server's process, which leads its own group."""

    pid: int
    address: str  # where it answers
    record: Path

    def alive(self) -> bool:
        """Whether any of its group still runs."""
        import psutil

        return any(self._has(pid) for pid in psutil.pids())

    def listens(self, port: int) -> bool:
        """Whether it, or one of its group, is who answers at a port of this machine."""
        import psutil

        for pid in filter(self._has, psutil.pids()):
            with suppress(psutil.Error):
                found = psutil.Process(pid).net_connections(kind="tcp")
                if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found):
                    return True
        return False

    def _has(self, pid: int) -> bool:
        """Whether a process is of the group, and not of a later one with the same id: that has not the record open."""
        import psutil

        with suppress(psutil.Error, OSError):
            if os.getpgid(pid) == self.pid:
                files = psutil.Process(pid).open_files()
                return any(file.fd == 0 and os.path.samefile(file.path, self.record) for file in files)
        return False

    def stop(self) -> None:
        """End it and all of its group, gently first; return when they are gone."""
        if not self.alive():
            return
        deadline = time.monotonic() + GRACE
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
            while is_held(self.record):
                os.killpg(self.pid, signal.SIGKILL if time.monotonic() > deadline else 0)


def start(
    command: list[str], environment: Mapping[str, str], directory: Path, log: Path, record: Path, address: str
) -> Process:
    """Start a process that outlives this one; what it prints goes to `log`, which is begun anew.

    Raises ServiceError when a process holds the record.
    """
    durable.make_private(record.parent)
    with open(record, "a+b") as known:
        if not take(known.fileno(), ENDING):
            raise stranger(record)
        known.truncate(0)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*BEGIN, address, *command],
                cwd=directory,
                env=environment,
                stdin=known,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,  # what it stores is this user's alone
            )
    reach("started a server")
    return Process(process.pid, address, record)


def find(record: Path) -> Process | None:
    """The process that a record tells of; None when it is gone, or the file is no record or a copy of one."""
    with suppress(FileNotFoundError):
        told = RECORD.fullmatch(record.read_text(encoding="utf-8", errors="replace"))
        if told and (process := Process(int(told[1]), told[2], record)).alive():
            return process
    return None


def is_held(record: Path) -> bool:
    """Whether a process holds the lock on a record, be it on another machine, and does not let it go at once."""
    if not record.exists():
        return False
    with open(record, "ab") as file:
        return not take(file.fileno(), ENDING)


def stranger(record: Path) -> ServiceError:
    """What is to be said of a record that is held by a process that it does not lead to."""
    return ServiceError(
        f"{record} is held by a server that is not to be found from here: it runs in another container or on another "
        f"machine, or the file was damaged. Stop it there; `fuser {record}` names it"
    )
