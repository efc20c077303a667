"""Make MLflow agree with the journals and outputs of a workspace.

    python -m rlhf.tracking.sender WORKSPACE [--follow]

With --follow it goes on, once a second, until its standard input ends, then does a last pass; if its parent dies it
stops at once. What it cannot send stays in the journals for the next time, and the exit code says so (14).
"""

import argparse
import os
import select
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from rlhf.errors import DataError, DiskFull, Exit, ServiceError, UserError
from rlhf.garbage import loading
from rlhf.locks import hold
from rlhf.tracking.journal import journals
from rlhf.tracking.mirror import mirror
from rlhf.tracking.outputs import model_outputs
from rlhf.tracking.registration import register_outputs
from rlhf.tracking.sending import Sender
from rlhf.tracking.sent import load_sent
from rlhf.tracking.store import connect, patience, reaching

TICK = 1.0  # seconds between two passes while following: one batch a run a second


class Follower:
    """Passes over one workspace; keeps what was read between them, and starts afresh after a failure of the store."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.trouble: UserError | None = None  # of the last pass
        self._sender: Sender | None = None
        self._models: dict[str, str] = {}  # {digest: logged model} of what has been registered
        self._warned: set[str] = set()

    def attempt(self, last: bool = True) -> None:
        """One pass; a store that does not answer and a damaged file are told once each.

        Outputs may come and go under a pass that is not the `last`: a model that is not whole is left for later.
        """
        self.trouble = None
        try:
            sender = self._sender = self._sender or self._connected()
            with reaching(sender.store.uri):
                for path in journals(self.workspace):
                    self._send(sender, path)
                self._register(sender, last)
                sender.link(self._models)
        except ServiceError as error:
            self._sender, self._models = None, {}
            self._tell(error)
        except OSError as error:
            if (full := DiskFull.behind(error, self.workspace)) is None:
                raise
            self._tell(full)

    def _connected(self) -> Sender:
        with loading():
            store = connect(self.workspace)
        with reaching(store.uri):
            return Sender(self.workspace, store, load_sent(self.workspace))

    def _send(self, sender: Sender, path: Path) -> None:
        try:
            sender.send(path)
        except DataError as error:
            self._tell(error)

    def _register(self, sender: Sender, last: bool) -> None:
        """Register the models that are new since the last pass; the last pass looks at all of them."""
        try:
            if not last and self._models.keys() >= {output.digest for output in model_outputs(self.workspace)}:
                return
            models = register_outputs(self.workspace, sender.store, sender.runs)
            self._models |= {digest: model.model_id for digest, model in models.items()}
            sender.remember({model.key: str(model) for model in models.values()})
            mirror(self.workspace, sender.store)
        except (DataError, FileNotFoundError) as error:
            if last:
                self._tell(error if isinstance(error, DataError) else DataError(f"{error.filename} is gone"))

    def _tell(self, error: UserError) -> None:
        self.trouble = error
        told = "the store" if isinstance(error, ServiceError) else str(error)  # one outage has many messages
        if told not in self._warned:
            self._warned.add(told)
            sys.stderr.write(f"{error}\n")


def sync(workspace: Path) -> Exit:
    """Send everything once. Raises Busy when another sender is at work."""
    with _sending(workspace):
        follower = Follower(workspace)
        follower.attempt()
    return _verdict(follower)


def follow(workspace: Path) -> Exit:
    """Send while a run goes on, until standard input ends."""
    parent = os.getppid()
    with _sending(workspace):
        follower = Follower(workspace)
        ended = False
        while not ended:  # the first pass at once: loading MLflow takes seconds
            follower.attempt(last=False)
            ended = _input_ended(patience() if isinstance(follower.trouble, ServiceError) else TICK)
            if os.getppid() != parent:
                return Exit.PREEMPTED
        follower.attempt()
    return _verdict(follower)


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rlhf.tracking.sender", description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    options = parser.parse_args(arguments)
    try:
        return follow(options.workspace) if options.follow else sync(options.workspace)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit


def _sending(workspace: Path) -> AbstractContextManager[None]:
    """Held by the one process that sends."""
    return hold(workspace / ".rlhf/sender.lock", f"The connection of {workspace} to MLflow", 60.0)


def _input_ended(seconds: float) -> bool:
    """Wait for the end of standard input, at most so long; what is written there is not looked at."""
    deadline = time.monotonic() + seconds
    while select.select([sys.stdin], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(sys.stdin.fileno(), 4096):
            return True
    return False


def _verdict(follower: Follower) -> Exit:
    if isinstance(follower.trouble, ServiceError):
        sys.stderr.write("unsynced: run `rlhf sync` when MLflow answers\n")
    return follower.trouble.exit if follower.trouble else Exit.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
