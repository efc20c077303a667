"""`rlhf up` and `rlhf down` with the real servers, and what they must never stop."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from typer.testing import Result

from rlhf import telemetry
from rlhf.errors import Busy, ServiceError
from rlhf.services import local
from rlhf.services.local import down, recorded, up
from rlhf.services.ports import choose, is_free
from rlhf.services.processes import Process, find, start
from rlhf.services.servers import PREFECT
from tests.conftest import free_port, wait_until

SLEEP = "import time; time.sleep(600)"
PRINT_ID = f"import os; print(os.getpid(), flush=True); {SLEEP}"
UP = """
import sys
from pathlib import Path
from rlhf.services.local import up
from rlhf.services.servers import PREFECT
up(Path(sys.argv[1]), {"prefect": int(sys.argv[2])}, print, (PREFECT,))
"""


@pytest.fixture
def start_server() -> Iterator[Callable[..., Process]]:
    """Start a program where Prefect's server of a workspace would stand; it is killed in the end."""
    started: list[Process] = []

    def begin(workspace: Path, program: str = SLEEP) -> Process:
        record, log = workspace / ".rlhf/servers/prefect", workspace / "log"
        started.append(start([sys.executable, "-c", program], os.environ, workspace, log, record, "http://127.0.0.1:1"))
        wait_until(lambda: find(record) is not None, "its record")
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(process.pid, 0)


def test_a_server_is_stopped_in_its_own_workspace_and_not_in_a_copy(
    tmp_path: Path, start_server: Callable[..., Process]
) -> None:
    (tmp_path / "own").mkdir()
    process = start_server(tmp_path / "own")
    subprocess.run(["cp", "-a", tmp_path / "own", tmp_path / "copy"], check=True)
    assert list(recorded(tmp_path / "copy")) == down(tmp_path / "copy") == []
    assert is_alive(process.pid)
    assert [service.process for service in down(tmp_path / "own")] == [process]
    assert not is_alive(process.pid)
    assert list(recorded(tmp_path / "own")) == []


@pytest.mark.parametrize("text", ["", "[]", "999999999 http://127.0.0.1:1\n", "{pid} http://127.0.0.1:1\n"])
def test_a_record_that_tells_of_no_server_stops_nothing(tmp_path: Path, text: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as stranger:
        (tmp_path / ".rlhf/servers").mkdir(parents=True)
        (tmp_path / ".rlhf/servers/prefect").write_text(text.format(pid=stranger.pid))
        assert down(tmp_path) == []
        assert is_alive(stranger.pid)
        stranger.kill()


def test_no_server_is_started_beside_one_whose_record_is_damaged(
    tmp_path: Path, start_server: Callable[..., Process]
) -> None:
    process = start_server(tmp_path)
    (tmp_path / ".rlhf/servers/prefect").write_text("{}")
    for attempt in (lambda: up(tmp_path, {}, print, (PREFECT,)), lambda: down(tmp_path)):
        with pytest.raises(ServiceError, match=r"servers/prefect is held by .* the file was damaged\. Stop it"):
            attempt()
    assert is_alive(process.pid)


def test_a_server_is_found_though_who_started_it_was_killed_at_once(tmp_path: Path) -> None:
    port = free_port()
    killed = {**os.environ, "RLHF_FAILPOINT": f"{tmp_path / 'hits'}:1:kill"}
    done = subprocess.run([sys.executable, "-c", UP, tmp_path, str(port)], env=killed)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: list(recorded(tmp_path)) != [], "the record of the server")
    (service,) = down(tmp_path)
    assert service.address == f"http://127.0.0.1:{port}/api"
    assert not is_alive(_pid(service.process))


def test_who_starts_or_stops_a_server_waits_for_who_does_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as other:
        other.enter_context(local._alone(tmp_path))
        threading.Timer(0.2, other.close).start()
        assert down(tmp_path) == []
    monkeypatch.setattr(local, "DEADLINE", 0.1)
    with (
        local._alone(tmp_path),
        pytest.raises(Busy, match=f"list of servers of {tmp_path} is in use by process {os.getpid()}"),
    ):
        down(tmp_path)


def test_a_server_is_stopped_whose_first_process_was_killed(
    tmp_path: Path, start_server: Callable[..., Process]
) -> None:
    process = start_server(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PRINT_ID!r}])")
    wait_until(lambda: (tmp_path / "log").read_text() != "", "the child")
    child = int((tmp_path / "log").read_text())
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    assert [service.process for service in down(tmp_path)] == [process]
    assert not is_alive(child)


def test_the_whole_group_is_stopped_even_if_it_does_not_want_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: Callable[..., Process]
) -> None:
    monkeypatch.setattr("rlhf.services.processes.GRACE", 0.3)
    program = (
        "import os, signal, sys, time; child = os.fork();"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(child, flush=True) if child else None; time.sleep(600)"
    )
    process = start_server(tmp_path, program)
    wait_until(lambda: (tmp_path / "log").read_text() != "", "the child")
    child = int((tmp_path / "log").read_text())
    process.stop()
    assert not process.alive()
    assert not is_alive(child)


@pytest.mark.slow
@pytest.mark.integration
def test_workspaces_that_start_at_once_have_servers_of_their_own(tmp_path: Path) -> None:
    """Neither listens yet when both look for a port that is free."""
    workspaces = [tmp_path / "one", tmp_path / "other"]
    for workspace in workspaces:
        workspace.mkdir()
    try:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda workspace: up(workspace, {}, lambda _: None, (PREFECT,))[0], workspaces))
        assert found[0].address != found[1].address
        assert [next(recorded(workspace)).address for workspace in workspaces] == [one.address for one in found]
        assert not any(PREFECT.trouble(one.address) for one in found)
    finally:
        for workspace in workspaces:
            down(workspace)


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
def test_up_and_down(
    small_world: Path,
    rlhf: Callable[..., Result],
    rlhf_apart: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ports = {"prefect": free_port(), "mlflow": free_port()}
    up = ("up", "-C", small_world, "--json")
    addresses = {
        "prefect": f"http://127.0.0.1:{ports['prefect']}/api",
        "mlflow": f"http://127.0.0.1:{ports['mlflow']}",
    }
    asked = ("--prefect-port", ports["prefect"], "--mlflow-port", ports["mlflow"])
    try:
        with ThreadPoolExecutor() as two:  # at once: the second waits for the servers of the first
            ends = list(two.map(lambda _: rlhf_apart(*up, *asked), range(2)))
        assert [end.returncode for end in ends] == [0, 0], ends
        assert [json.loads(end.stdout) for end in ends] == [addresses, addresses]
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
        wait_until(lambda: is_free(ports["prefect"]), "its end")
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
