"""A Prefect server answers, whatever it or the server before it has left behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SEARCHES = """
import gc, threading, time
from flows.guarded import collect_aside
found = threading.Event()
class Left:
    def __init__(self):
        self.itself = self
    def __del__(self):
        self.freed_by = threading.current_thread()
        assert self.freed_by is not threading.main_thread()
        found.set()
collect_aside(0.02)
for _ in range(10_000):  # as many as make Python search by itself
    [[] for _ in range(10)]
    Left.last = Left()
assert not gc.isenabled()
print(found.wait(30))
found.clear()
old = Left()
while not any(one is old for one in gc.get_objects(generation=2)):
    time.sleep(0.01)  # until it has outlived the searches of what is new
del old
print(found.wait(30))
"""


def test_garbage_is_searched_for_where_nobody_waits_for_an_answer() -> None:
    done = subprocess.run([sys.executable, "-c", SEARCHES], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")


@pytest.mark.integration
@pytest.mark.usefixtures("prefect_server")
def test_a_lock_that_a_killed_server_left_keeps_nobody_waiting() -> None:
    """Its number is another process's now: here, that of the tests."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.settings import PREFECT_HOME

    from flows.server import client

    began = time.monotonic()
    with client() as connected:
        connected.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="guarded", limit=1))
        granted = connected.increment_concurrency_slots_with_lease(["guarded"], 1, "concurrency", 60.0).json()
        connected.release_concurrency_slots_with_lease(granted["lease_id"])
    assert time.monotonic() - began < 10
    assert not list(Path(PREFECT_HOME.value()).glob("concurrency_leases/*.lock"))
