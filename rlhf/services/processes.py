"""A detached process with a record of who it is, so that a later command can find it and stop it, and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable

CLOCK = 2.0  # seconds by which the start of a process may differ when the machine's clock is corrected
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
POLL = 0.05


@dataclass(frozen=True)
class Process:
    """A process that leads its own group. An id alone may belong to another one since; with its start it cannot."""

    pid: int
    started: float  # seconds since 1970

    def alive(self) -> bool:
        """Whether it still runs."""
        import psutil

        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # if it is ours and has ended, let it go
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self) -> None:
        """End it and all of its group, gently first; return when they are gone."""
        if not self.alive():
            return
        deadline = time.monotonic() + GRACE
        self._signal(signal.SIGTERM)
        while self._group_lives():
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(POLL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _group_lives(self) -> bool:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def start(command: list[str], environment: Mapping[str, str], directory: Path, log: Path) -> Process:
    """Start a process that outlives this one; what it prints goes to `log`, which is begun anew."""
    import psutil

    durable.make_private(log.parent)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,  # what it stores is this user's alone
        )
    return Process(process.pid, psutil.Process(process.pid).create_time())
