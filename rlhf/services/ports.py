"""Ports of the loopback interface: is one free, who holds it, which one to take instead."""

import socket

from rlhf.errors import ServiceError

HOST = "127.0.0.1"
TRIED = 100  # ports after the usual one


def choose(service: str, usual: int, wanted: int | None) -> int:
    """The port for a new server: `wanted` if one was asked for, else `usual` or the next that is free.

    Raises ServiceError when the wanted one is taken, naming its holder, or when none is free.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise ServiceError(
                f"Port {wanted} for {service} is in use{_by(wanted)}. Stop that program, or give another port: "
                f"rlhf up --{service}-port PORT, or {variable(service)}=PORT"
            )
        return wanted
    for port in range(usual, usual + TRIED):
        if is_free(port):
            return port
    raise ServiceError(
        f"No port from {usual} to {usual + TRIED - 1} is free for {service}. Set {variable(service)}=PORT"
    )


def variable(service: str) -> str:
    """The environment variable that asks for a port."""
    return f"RLHF_{service.upper()}_PORT"


def is_free(port: int) -> bool:
    """Whether a server could listen on the port. Raises ServiceError when this user may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed connection holds nothing
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise ServiceError(f"Port {port} may not be opened by this user. Give one above 1023") from None
        except OSError:
            return False
    return True


def holder(port: int) -> str | None:
    """Who listens on the port, as "name (process 123)"; None when that is hidden from this user."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
        listening = [c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid]
        return f"{psutil.Process(listening[0]).name()} (process {listening[0]})" if listening else None
    except psutil.Error:
        return None


def _by(port: int) -> str:
    who = holder(port)
    return f" by {who}" if who else ""
