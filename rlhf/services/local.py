"""`rlhf up` and `rlhf down`: the servers of one workspace on this machine, each with its record in .rlhf/servers."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rlhf.errors import ServiceError
from rlhf.locks import hold
from rlhf.logs import log_file
from rlhf.secrets import redact
from rlhf.services.ports import choose, is_free, variable
from rlhf.services.processes import Process, find, is_held, start, stranger
from rlhf.services.servers import PREFECT, SERVERS, Server, command, environment, is_new, prefect_home

DEADLINE = 180.0  # seconds for a server to answer; the first start makes a database
POLL = 0.05
FIRST = " (the first start makes its database: up to half a minute)"
Tell = Callable[[str], None]  # shows what is being waited for


@dataclass(frozen=True)
class Service:
    """A server that can be used."""

    server: Server
    address: str  # value of the server's setting
    process: Process | None  # None: somebody else's, named by the environment
    fresh: bool = False  # started just now

    @property
    def pages(self) -> str:
        """Address for a browser, without a password."""
        return redact(self.server.pages(self.address))


def up(
    workspace: Path, wanted: Mapping[str, int | None], tell: Tell, servers: tuple[Server, ...] = SERVERS
) -> list[Service]:
    """Start the servers that do not run yet and wait until each is well.

    `wanted` holds ports that were asked for, by server name; without one the environment is looked at. A server that
    the environment names is used, not started. Raises ServiceError: a port in use, a server that does not answer.
    """
    with _alone(workspace):
        found: list[Service] = []
        patience = {server: FIRST if is_new(server, workspace) else "" for server in servers}
        try:
            for server in servers:
                found.append(_existing(server, workspace, _wanted(server, wanted)) or _start(server, workspace, wanted))
            for place, service in enumerate(found):
                if service.fresh:
                    tell(f"Starting {service.server.title} at {service.pages}{patience[service.server]}")
                while service.fresh and not _is_well(found[place], workspace):
                    found[place] = _start(service.server, workspace, wanted)
        except BaseException:  # Ctrl-C too: what was begun is taken back
            _stop([service for service in found if service.fresh])
            raise
        return found


def down(workspace: Path) -> list[Service]:
    """Stop the servers that `up` started; return those that were running.

    Raises ServiceError when one runs that cannot be stopped from here.
    """
    with _alone(workspace):
        services = list(recorded(workspace))
        _stop(services)
        for server in SERVERS:
            if is_held(_record(workspace, server)):
                raise stranger(_record(workspace, server))
        return services


def ensure_prefect(workspace: Path, tell: Tell) -> Service:
    """The Prefect server to use; started when there is none. Afterwards Prefect may be imported and finds it.

    Sets PREFECT_API_URL, and PREFECT_HOME for a server of the workspace, in this process's environment.
    Raises ServiceError when the server that the environment names does not answer.
    """
    running = next((service for service in recorded(workspace) if service.server is PREFECT), None)
    if PREFECT.elsewhere() or running is None or PREFECT.trouble(running.address):
        (running,) = up(workspace, {}, tell, (PREFECT,))
    use(running, workspace)
    return running


def use(service: Service, workspace: Path) -> None:
    """Have this process and its children use a service."""
    os.environ[service.server.setting] = service.address
    if service.process and service.server is PREFECT:
        os.environ["PREFECT_HOME"] = str(prefect_home(workspace))


def recorded(workspace: Path) -> Iterator[Service]:
    """The services that `up` started and that still run."""
    for server in SERVERS:
        if process := find(_record(workspace, server)):
            yield Service(server, process.address, process)


def _existing(server: Server, workspace: Path, wanted: int | None) -> Service | None:
    """The server that the environment names, or the one that runs already."""
    elsewhere = server.elsewhere()
    if elsewhere:
        trouble = server.trouble(elsewhere)
        if trouble:
            raise ServiceError(
                f"{server.setting} names {elsewhere}: {trouble}. Start that server or correct the variable; "
                f"without it `rlhf up` starts a {server.title} server here"
            )
        return Service(server, elsewhere, None)
    for service in recorded(workspace):
        if service.server is server:
            if wanted is not None and service.address != server.address(wanted):
                raise ServiceError(
                    f"{server.title} runs already, at {service.pages}. To move it to port {wanted}: first `rlhf down`"
                )
            return service if not server.trouble(service.address) else None
    return None


def _start(server: Server, workspace: Path, wanted: Mapping[str, int | None]) -> Service:
    record = _record(workspace, server)
    if running := find(record):
        running.stop()  # it does not answer
    port = choose(server.name, server.usual_port, _wanted(server, wanted))
    line, variables = command(server, workspace, port), environment(server, workspace, port)
    process = start(line, variables, workspace, log_file(workspace, server.name), record, server.address(port))
    return Service(server, process.address, process, fresh=True)


def _wanted(server: Server, wanted: Mapping[str, int | None]) -> int | None:
    """The port that was asked for, by an option or by the environment."""
    if wanted.get(server.name) is not None:
        return wanted[server.name]
    text = os.environ.get(variable(server.name))
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ServiceError(f"{variable(server.name)} is {text!r}. Give it a port from 1 to 65535")
    return int(text)


def _is_well(service: Service, workspace: Path) -> bool:
    """Wait until a server that was just started is well; False where another program took its port before it could.

    Raises ServiceError with the end of its log when it is not.
    """
    server, log, port = service.server, log_file(workspace, service.server.name), urlsplit(service.address).port
    assert service.process
    assert port
    deadline = time.monotonic() + DEADLINE
    while trouble := server.trouble(service.address, seconds=1.0):
        if not service.process.alive():
            if not is_free(port):
                return False
            raise ServiceError(f"{server.title} ended while it started: {_last_line(log)}. See {log}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{server.title} did not start within {DEADLINE:g} s: {trouble}. See {log}")
        time.sleep(POLL)
    return service.process.listens(port)


def _stop(services: list[Service]) -> None:
    for service in services:
        if service.process:
            service.process.stop()


def _alone(workspace: Path) -> AbstractContextManager[None]:
    """Nobody else starts or stops a server of the workspace; waits for who does. Raises Busy."""
    return hold(workspace / ".rlhf" / "services.lock", f"The list of servers of {workspace}", DEADLINE)


def _record(workspace: Path, server: Server) -> Path:
    return workspace / ".rlhf" / "servers" / server.name


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
