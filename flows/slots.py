"""A slot of the concurrency limit `gpu`, under a lease that is renewed, given back, and found again after a crash.

Prefect's own `concurrency()` cannot be stopped while it waits, and after a `kill -9` its slot stays taken until the
lease runs out: here the lease's id is kept in the workspace, and the next run gives it back. A lease that cannot be
renewed does not end a training run: the stage itself holds the kernel's lock on its GPU. And where the server goes
away, the stages of the run share the GPUs of this machine among themselves.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.server import GPU, Shown, no_limit, slots_here
from rlhf import durable

LEASE = 60.0  # seconds, the shortest that Prefect grants
RENEWAL = LEASE / 3
POLL = 0.5  # seconds between two attempts to get a slot that another run may give back
PATIENCE = 10  # attempts before somebody is told who is waited for
_LINE = threading.Lock()  # of the stages of this run that want a slot, of which the first asks
_FREED = threading.Event()  # set when one of them gives its slot back


@contextmanager
def gpu_slot(file: Path, stop: threading.Event, shown: Shown) -> Iterator[bool]:
    """Wait for a slot and hold it; yields False when `stop` was set first. `file` keeps the lease's id meanwhile.

    `shown` is told of a wait for other runs; that the stages of one run wait for each other is what the limit is for.
    It also says whether the server answers: once it did not, it is not asked again.
    Raises ServiceError when the limit does not exist.
    """
    lease = _first_in_line(file, stop, shown)
    if lease is None:
        yield False
        return
    done = threading.Event()
    settings = copy_context()  # a thread would ask the server of the environment instead
    threading.Thread(target=settings.run, args=(_renew, lease, done), daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        if shown.whole:
            with shown.trying(), get_client(sync_client=True) as client:
                _release(client, lease)
        file.unlink()
        _FREED.set()


def release_left_over(client: SyncPrefectClient, directory: Path) -> None:
    """Give back the slots whose leases a dead run left in `directory`."""
    for file in directory.glob("*") if directory.is_dir() else ():
        with suppress(ValueError):  # a run that died while it wrote the file: that slot comes back when its lease ends
            _release(client, UUID(file.read_text(encoding="utf-8")))
        file.unlink()


def _first_in_line(file: Path, stop: threading.Event, shown: Shown) -> UUID | None:
    """Wait in line, then for a slot; None where `stop` was set first.

    One stage asks at a time: of two, the server's database may grant both and then tell one that it is busy; and each
    that asks twice a second costs the server one part in twenty of a processor.
    """
    while not _LINE.acquire(timeout=POLL):
        if stop.is_set():
            return None
    try:
        attempts = 0
        while (lease := _lease(file, shown)) is None and not stop.is_set():
            _FREED.wait(POLL)
            _FREED.clear()
            attempts += 1
            if attempts == PATIENCE and not any(file.parent.glob("*")):
                shown.tell(f"{file.name} waits: other runs hold every slot of Prefect's limit `{GPU}`")
        return lease
    finally:
        _LINE.release()


def _lease(file: Path, shown: Shown) -> UUID | None:
    """A slot, whose lease is in `file` then: the server's, or one of this machine; None when all are taken."""
    lease = None
    if shown.whole:
        with shown.trying():
            lease = _acquire()
    if not shown.whole and len(list(file.parent.glob("*"))) < slots_here():
        lease = uuid4()  # that no server knows
    if lease:
        durable.write_text(file, str(lease))
    return lease


def _acquire() -> UUID | None:
    """The lease of one slot; None when all are taken."""
    with get_client(sync_client=True) as client:
        try:
            granted = client.increment_concurrency_slots_with_lease([GPU], 1, "concurrency", LEASE).json()
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.LOCKED:
                return None
            raise
    if not granted["limits"]:
        raise no_limit()
    return UUID(granted["lease_id"])


def _renew(lease: UUID, done: threading.Event) -> None:
    """Renew a lease until `done`. A server that is away may come back before the lease ends."""
    with get_client(sync_client=True) as client:
        while not done.wait(RENEWAL):
            try:
                client.renew_concurrency_lease(lease, LEASE)
            except httpx.TransportError:
                continue
            except httpx.HTTPStatusError as error:
                if error.response.is_client_error:
                    return  # the server forgot the lease; there is nothing left to renew


def _release(client: SyncPrefectClient, lease: UUID) -> None:
    try:
        client.release_concurrency_slots_with_lease(lease)
    except httpx.HTTPStatusError:
        return  # it is gone already, or it runs out by itself
