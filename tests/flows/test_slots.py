"""Slots of the GPU: stages and runs that wait for each other, the limit at the server, and leases that are kept."""

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path

import pytest

from rlhf.errors import Exit, ServiceError
from tests.conftest import wait_until
from tests.flows.running import run
from tests.pipeline.test_stage import rewrite

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


def test_gpu_stages_run_one_after_the_other(finished: Path) -> None:
    body = """
span = stage.workspace / f"span-{stage.item}"
started = time.time()
time.sleep(0.5)
span.write_text(f"{started} {time.time()}")
stage.output(f"models/{stage.item}").joinpath("model.txt").write_text("x")
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    assert run(finished).exit == Exit.DONE
    spans = sorted(tuple(map(float, file.read_text().split())) for file in finished.glob("span-*"))
    assert spans[0][1] <= spans[1][0]


@pytest.fixture
def no_limit() -> Iterator[None]:
    """A server without the limit `gpu`."""
    from flows.server import GPU, client, ensure_limits

    with client() as connected:
        ensure_limits(connected)
        connected.delete_global_concurrency_limit_by_name(GPU)
        yield
        ensure_limits(connected)


def test_a_missing_limit_is_an_error(no_limit: None, tmp_path: Path) -> None:
    from flows.server import Shown, client, require_limits
    from flows.slots import gpu_slot

    with client() as connected, pytest.raises(ServiceError, match="prefect gcl create gpu"):
        require_limits(connected)
    with pytest.raises(ServiceError, match="prefect gcl create gpu"):
        gpu_slot(tmp_path / "lease", threading.Event(), Shown(print)).__enter__()


def test_who_waits_for_other_runs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import server, slots

    monkeypatch.setattr(slots, "PATIENCE", 1)
    stop, told = threading.Event(), []

    def tell(text: str) -> None:
        told.append(text)
        stop.set()

    with server.client() as connected:
        server.ensure_limits(connected)
        taken = slots._acquire()
        with slots.gpu_slot(tmp_path / "sft", stop, server.Shown(tell)) as held:
            assert not held
        slots._release(connected, taken)
    assert told == ["sft waits: other runs hold every slot of Prefect's limit `gpu`"]


def test_of_the_stages_that_wait_the_first_asks_and_hears_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import slots
    from flows.server import Shown, client, ensure_limits, slots_here

    acquire, asked, stop, shown = slots._acquire, list[int](), threading.Event(), Shown(print)
    monkeypatch.setattr(slots, "_acquire", lambda: asked.append(threading.get_ident()) or acquire())
    got = list[str]()

    def wait(name: str) -> None:
        with slots.gpu_slot(tmp_path / name, stop, shown) as held:
            if held:
                got.append(name)

    with client() as connected:
        ensure_limits(connected)
    with ExitStack() as taken:
        for number in range(slots_here()):
            assert taken.enter_context(slots.gpu_slot(tmp_path / f"held@{number}", stop, shown))
        asked.clear()
        threads = [threading.Thread(target=copy_context().run, args=(wait, f"model@{n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(asked) >= 4, "the first to ask again")
        assert len(set(asked)) == 1, "the others wait for it"
        monkeypatch.setattr(slots, "POLL", 600.0)
        given_back = time.monotonic()
    for thread in threads:
        thread.join(60.0)
    assert sorted(got) == ["model@0", "model@1", "model@2"]
    assert time.monotonic() - given_back < 60.0


def test_without_a_server_the_stages_of_a_run_still_wait_for_each_other(tmp_path: Path) -> None:
    from flows.server import Shown, slots_here
    from flows.slots import gpu_slot

    stop, away = threading.Event(), Shown(print, whole=False)
    with ExitStack() as taken:
        for number in range(slots_here()):
            assert taken.enter_context(gpu_slot(tmp_path / f"model@{number}", stop, away))
        stop.set()
        with gpu_slot(tmp_path / "last", stop, away) as held:
            assert not held
    with gpu_slot(tmp_path / "last", stop, away) as held:
        assert held


def test_a_lease_is_renewed_at_the_server_that_its_stage_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import server, slots

    monkeypatch.setattr(slots, "RENEWAL", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as asked:
        asked.settimeout(30)
        with (
            temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{asked.getsockname()[1]}/api"}),
            slots.gpu_slot(tmp_path / "sft", threading.Event(), server.Shown(print, whole=False)),
        ):
            connection, _ = asked.accept()
            with connection:
                request = connection.recv(65536)
    assert b" /api/" in request.splitlines()[0]


def test_a_fault_around_a_stage_is_the_stages_and_stops_what_waits_for_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that finds no room on the disk."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(workspace / ".rlhf"))

    monkeypatch.setattr("flows.slots._lease", full)
    result = run(workspace)
    assert result.exit == Exit.DISK_FULL
    states = {name: stage.state for name, stage in result.stages.items()}
    assert set(states.values()) <= {"ran", "failed", "skipped"}
    assert states["gate"] == "skipped"


def test_a_lease_that_a_dying_run_half_wrote_stops_no_other(workspace: Path) -> None:
    (workspace / ".rlhf/leases").mkdir(parents=True)
    for name in (".partial-model", "model"):
        (workspace / ".rlhf/leases" / name).touch()
    assert run(workspace).exit == Exit.DONE
    assert not list((workspace / ".rlhf/leases").iterdir())
