"""`rlhf up` and `rlhf down` with the real servers, and what they must never stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import Result

from rlhf.services.local import down, recorded
from rlhf.services.ports import choose, is_free
from rlhf.services.processes import Process, start
from tests.conftest import free_port


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as process:
        yield process
        process.kill()


def record(workspace: Path, pid: int, started: float) -> None:
    file = workspace / ".rlhf" / "services.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    entry = {"address": "http://127.0.0.1:1/api", "process": {"pid": pid, "started": started}}
    file.write_text(json.dumps({"prefect": entry}))


def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time() - 60)
    assert down(tmp_path) == []
    assert is_alive(sleeper.pid)


def test_the_recorded_process_is_stopped(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time())
    assert [service.server.name for service in down(tmp_path)] == ["prefect"]
    assert not is_alive(sleeper.pid)
    assert list(recorded(tmp_path)) == []


def test_the_whole_group_is_stopped_even_if_it_does_not_want_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.services.processes.GRACE", 0.3)
    program = (
        "import os, signal, sys, time; child = os.fork();"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(child, flush=True) if child else None; time.sleep(600)"
    )
    process = start([sys.executable, "-c", program], os.environ, tmp_path, tmp_path / "log")
    while not (tmp_path / "log").read_text().strip():
        assert process.alive()
    child = int((tmp_path / "log").read_text())
    process.stop()
    assert not process.alive()
    assert not is_alive(child)


def test_a_usual_port_that_is_taken_gives_way_to_the_next() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        chosen = choose("prefect", port, None)
    assert port < chosen < port + 100
    assert is_free(chosen)


@pytest.mark.integration
def test_up_and_down(small_world: Path, rlhf: Callable[..., Result]) -> None:
    ports = {"prefect": free_port(), "mlflow": free_port()}
    up = ("up", "-C", small_world, "--json")
    try:
        result = rlhf(*up, "--prefect-port", ports["prefect"], "--mlflow-port", ports["mlflow"])
        assert result.exit_code == 0, result.output
        addresses = json.loads(result.stdout)
        assert addresses == {
            "prefect": f"http://127.0.0.1:{ports['prefect']}/api",
            "mlflow": f"http://127.0.0.1:{ports['mlflow']}",
        }
        assert _get(f"{addresses['prefect']}/health") == "true"
        assert "<html" in _get(f"http://127.0.0.1:{ports['prefect']}").lower()
        assert "<html" in _get(addresses["mlflow"]).lower()
        before = {service.server.name: service.process for service in recorded(small_world)}
        assert before.keys() == ports.keys()
        assert json.loads(rlhf(*up).stdout) == addresses
        assert {service.server.name: service.process for service in recorded(small_world)} == before
        moved = rlhf(*up, "--mlflow-port", free_port())
        assert moved.exit_code == 14
        assert "rlhf down" in moved.stderr

        lease = _abandon_slot(addresses["prefect"])
        os.killpg(_pid(before["prefect"]), signal.SIGKILL)  # the next `up` starts the one that is gone
        os.waitpid(_pid(before["prefect"]), 0)
        os.environ["RLHF_PREFECT_PORT"] = str(ports["prefect"])
        assert json.loads(rlhf(*up).stdout) == addresses
        assert _get(f"{addresses['prefect']}/health") == "true"
        (small_world / ".rlhf/leases").mkdir(exist_ok=True)
        (small_world / ".rlhf/leases/sft").write_text(lease)
        assert _free_slots(addresses["prefect"], small_world / ".rlhf/leases") == (0, 1)
    finally:
        os.environ.pop("RLHF_PREFECT_PORT", None)
        services = list(recorded(small_world))
        stopped = rlhf("down", "-C", small_world)
    assert stopped.exit_code == 0
    assert stopped.output.count("is stopped") == 2
    assert [s for s in services if s.process and s.process.alive()] == []
    assert all(is_free(port) for port in ports.values())
    assert "No server" in rlhf("down", "-C", small_world).output


def _abandon_slot(address: str) -> str:
    """Take the only slot of the limit `gpu` and die, as far as the server can tell; the lease's id."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import server, slots

    with temporary_settings({PREFECT_API_URL: address}), server.client() as connected:
        server.ensure_limits(connected)
        return str(slots._acquire())


def _free_slots(address: str, leases: Path) -> tuple[int, int]:
    """How many slots are free before and after the next run gives back what a dead one held."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import server, slots

    def free() -> int:
        limit = connected.read_global_concurrency_limit_by_name(server.GPU)
        return limit.limit - limit.active_slots

    with temporary_settings({PREFECT_API_URL: address}), server.client() as connected:
        before = free()
        slots.release_left_over(connected, leases)
        return before, free()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _pid(process: Process | None) -> int:
    assert process
    return process.pid


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
