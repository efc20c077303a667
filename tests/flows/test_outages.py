"""A Prefect server that fails, at the start of a run and in its middle."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import ServiceError
from rlhf.tracking.journal import read
from tests.conftest import ROOT, wait_until
from tests.faulty import Faulty, faulty
from tests.flows.test_align import PROGRAM
from tests.flows.test_align import states as states_of_a_run
from tests.pipeline.test_stage import rewrite
from tests.pipeline.test_supervisor import edit

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


def test_a_server_that_goes_away_in_the_middle_costs_only_what_it_shows(proxy: Faulty, finished: Path) -> None:
    rewrite(finished, "model", BODY)
    edit(finished / "params.yaml", "[small, large]", "[small]")
    asked = {"PREFECT_API_URL": proxy.url, "PREFECT_API_REQUEST_TIMEOUT": "5", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command, pipes = [sys.executable, "-c", PROGRAM, str(finished)], {"stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **asked}, **pipes)
    try:
        wait_until((finished / "up").exists, "the stage", 60.0)
        proxy.set("refuse")
        (finished / "go").touch()
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "DONE []\n")
    assert (finished / "ran").read_text() == "x"
    (journal,) = (finished / ".rlhf/runs").iterdir()
    ended = {record["name"]: record["state"] for record in read(journal) if record["kind"] == "stage"}
    assert ended == {"rows": "cached", "model@small": "ran", "gate": "ran"}
    assert list(read(journal))[-1]["status"] == "completed"
    assert set(states_of_a_run(finished).values()) == {"cached"}
