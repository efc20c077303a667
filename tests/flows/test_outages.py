"""A Prefect server that fails, at the start of a run and in its middle."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import ServiceError
from rlhf.pipeline import versioning
from rlhf.tracking.journal import read
from tests.conftest import ROOT, wait_until
from tests.faulty import Faulty, faulty
from tests.pipeline.test_stage import rewrite

pytestmark = pytest.mark.integration


@pytest.fixture
def proxy(prefect_server: str) -> Iterator[Faulty]:
    """A proxy before the server, which this process does not use of itself."""
    with faulty(prefect_server) as proxy:
        yield proxy


def test_a_server_that_fails_is_told_in_a_sentence_and_in_time(proxy: Faulty) -> None:
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    from flows.server import client, ensure_limits

    short = {PREFECT_API_URL: proxy.url, PREFECT_API_REQUEST_TIMEOUT: 0.5, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(short):
        for mode in ("refuse", "freeze", "reset", "500", "503", "login", "truncated"):
            proxy.set(mode)
            begun = time.monotonic()
            with pytest.raises(ServiceError, match=rf"^[^\n]*{proxy.url}[^\n]*`rlhf up`[^\n]*$"), client() as connected:
                ensure_limits(connected)
            assert time.monotonic() - begun < 10, mode


BODY = """
(stage.workspace / "ran").open("a").write("x")
(stage.workspace / "up").touch()
deadline = time.monotonic() + 60
while not (stage.workspace / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
stage.output(f"models/{stage.item}").joinpath("model.txt").write_text("whole")
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""


PROGRAM = """
import sys
from pathlib import Path
from flows import align, server
from flows.records import sending
from tests.flows.running import Told
server.LAST, told = 0.5, Told()
with sending(Path(sys.argv[1])) as sender:
    result = align.run(Path(sys.argv[1]), sender, reporter=told)
print(result.exit.name, *told.messages, sep="\\n", flush=True)
"""


def test_a_server_that_freezes_in_the_middle_costs_only_what_it_shows(proxy: Faulty, finished: Path) -> None:
    """One of two stages that need a slot works then, and the other one waits for it."""
    rewrite(finished, "model", BODY)
    asked = {"PREFECT_API_URL": proxy.url, "PREFECT_API_REQUEST_TIMEOUT": "10", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command, log = [sys.executable, "-c", PROGRAM, str(finished)], finished.parent / "log"
    with open(log, "wb") as output:
        pipes = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **asked}, **pipes)
    try:
        wait_until((finished / "up").exists, "the stage", 60.0)
        proxy.set("freeze")
        (finished / "go").touch()
        deadline = time.monotonic() + 60
        while "DONE" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.3)
            proxy.set("freeze")  # cut what has been silent so long, in place of waiting for the client's own time-out
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    lost = r"Prefect does not show all of this run: its server does not answer \(\w+\)"
    assert re.fullmatch(rf"DONE\n{lost}\n", log.read_text())
    assert (finished / "ran").read_text() == "xx"
    (journal,) = (finished / ".rlhf/runs").iterdir()
    ended = {record["name"]: record["state"] for record in read(journal) if record["kind"] == "stage"}
    assert ended == {"rows": "cached", "model@small": "ran", "model@large": "ran", "gate": "ran"}
    assert list(read(journal))[-1]["status"] == "completed"
    assert not versioning.stale_stages(finished)


ENDING = """
from prefect.events import emit_event
from flows import server
server.LAST = 0.2
with server.Shown(print).ending():
    emit_event("a", resource={"prefect.resource.id": "b"})
"""


def test_the_end_of_a_run_does_not_wait_for_what_prefect_sends_beside(proxy: Faulty) -> None:
    """By itself it would, for 110 s an event."""
    proxy.set("freeze")
    command, environment = [sys.executable, "-c", ENDING], {**os.environ, "PREFECT_API_URL": proxy.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=40)
    lost = "Prefect does not show all of this run: its server does not answer (events and logs)\n"
    assert (done.returncode, done.stdout) == (0, lost)
