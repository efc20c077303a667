"""`rlhf up` and `rlhf down` with the real servers, and what they must never stop."""

import http.client
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

from rlhf import telemetry
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
        _is_closed_to_others(small_world, ports)
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


OTHER = "http://evil.example"
OPENING = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
POSTED = {
    "prefect": ("/api/flows/filter", "{}"),
    "mlflow": ("/api/2.0/mlflow/experiments/search", '{"max_results": 1}'),
}


def _is_closed_to_others(workspace: Path, ports: dict[str, int]) -> None:
    """Servers listen on loopback, take nothing from other sites, call nobody, and keep what they store private."""
    for service in recorded(workspace):
        process = psutil.Process(_pid(service.process))
        family = [process, *process.children(recursive=True)]
        sockets = [c for member in family for c in member.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in sockets} == {"127.0.0.1"}
        assert all(telemetry.OFF.items() <= member.environ().items() for member in family)

        name, port = service.server.name, ports[service.server.name]
        path, body = POSTED[name]
        json_body = {"Content-Type": "application/json"}
        own = f"http://127.0.0.1:{port}"
        assert _status(port, "GET", "/", {"Host": "evil.example"}) == 403
        assert _status(port, "GET", "/", {"Host": f"evil.example:{port}"}) == 403
        assert _status(port, "GET", "/", {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}) == 200
        assert _status(port, "POST", path, {**json_body, "Origin": OTHER}, body) == 403
        expected = 403 if name == "prefect" else 200  # Prefect wants a token of its own pages, too
        assert _status(port, "POST", path, {**json_body, "Origin": own}, body) == expected
    assert _status(ports["prefect"], "GET", "/api/events/in", {**OPENING, "Origin": OTHER}) == 403
    assert (
        _status(
            ports["prefect"], "GET", "/api/events/in", {**OPENING, "Origin": f"http://localhost:{ports['prefect']}"}
        )
        == 101
    )
    assert (
        _status(ports["mlflow"], "POST", "/api/2.0/mlflow/registered-models/create", json_body, '{"name": "x"}') == 200
    )
    source = '{"name": "x", "source": "s3://elsewhere/model"}'
    assert _status(ports["mlflow"], "POST", "/api/2.0/mlflow/model-versions/create", json_body, source) == 400
    private = [workspace / ".rlhf", workspace / ".rlhf/prefect", workspace / "mlflow.db"]
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def _status(port: int, method: str, path: str, headers: dict[str, str], body: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


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
