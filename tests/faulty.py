"""A proxy before a real server that does to its requests what networks and dying servers do."""

import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

LOGIN = b"<!doctype html><title>Sign in</title><form method=post></form>"
ANSWERS = {  # of the modes that answer by themselves: head and body
    "500": ("500 Internal Server Error", "", b"oops"),
    "502": ("502 Bad Gateway", "", b"<html>502</html>"),
    "503": ("503 Service Unavailable", "", b""),
    "429": ("429 Too Many Requests", "Retry-After: 600\r\n", b"{}"),
    "login": ("200 OK", "Content-Type: text/html\r\n", LOGIN),
    "truncated": ("200 OK", "Content-Type: application/json\r\n", b'{"experiment": {"experiment_id": "1", "na'),
}
# refuse: nobody listens; freeze: the connection stands and nothing comes; loris: a byte now and then, without end;
# reset: the request is passed on, and the connection breaks in the middle of the answer; lost: the same, every second
# time, with a 502 in place of the answer; twice: it is passed on two times. And, for uploads alone, sip: what is PUT is
# read a byte now and then, and the rest is passed on.
MODES = ("refuse", "freeze", "loris", "reset", "lost", "twice", *ANSWERS)
TRICKLE = 0.2  # seconds between two bytes of `loris` and `sip`


class Faulty:
    """The proxy. `mode` is None while it passes everything on; to set it cuts the connections that stand."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self.server = (str(address.hostname), int(address.port or 80))
        self.hits = 0  # requests that have met a fault
        self._mode: str | None = None
        self._open = set[socket.socket]()
        self._listening: socketserver.ThreadingTCPServer | None = None
        self._listen(0)
        self.port = self._listening.server_address[1] if self._listening else 0
        self.url = f"http://127.0.0.1:{self.port}{address.path}"

    def set(self, mode: str | None) -> None:
        """Do `mode` from now on. None: be a good proxy."""
        self._mode, self.hits = mode, 0
        if mode == "refuse":
            self.close()
        else:
            self._cut()
            if self._listening is None:
                self._listen(self.port)

    def close(self) -> None:
        """Stop listening, and cut what stands."""
        if self._listening:
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None
        self._cut()

    def _listen(self, port: int) -> None:
        faulty = self

        class Listening(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, block_on_close = True, True, False

            def handle_error(self, *_: object) -> None:
                """A connection that breaks is what is wanted."""

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                faulty._open.add(self.request)
                try:
                    faulty._serve(self.request)
                finally:
                    faulty._open.discard(self.request)

        self._listening = Listening(("127.0.0.1", port), Handler)
        threading.Thread(target=self._listening.serve_forever, args=(0.02,), daemon=True).start()

    def _cut(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket) -> None:
        if self._mode is None:
            self._tunnel(client)
        elif self._mode == "sip" and client.recv(3, socket.MSG_PEEK) == b"PUT":
            self.hits += 1
            while client.recv(1):
                time.sleep(TRICKLE)
        elif request := _message(client):
            self.hits += 1
            self._fail(self._mode, client, request)

    def _fail(self, mode: str, client: socket.socket, request: bytes) -> None:
        if mode in ANSWERS:
            status, fields, body = ANSWERS[mode]
            head = f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode() + body)
        elif mode == "freeze":
            client.recv(1)  # until it is cut, or the client has enough
        elif mode == "loris":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                client.sendall(b" ")
                time.sleep(TRICKLE)
        else:
            answers = [self._ask(request) for _ in range(2 if mode == "twice" else 1)]
            if mode == "lost" and self.hits % 2:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                client.sendall(answers[-1][: len(answers[-1]) // 2] if mode == "reset" else answers[-1])

    def _tunnel(self, client: socket.socket) -> None:
        with socket.create_connection(self.server) as server:
            self._open.add(server)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server, self._renamed)
            back.join()
            self._open.discard(server)

    def _ask(self, request: bytes) -> bytes:
        """The server's whole answer to a request."""
        with socket.create_connection(self.server) as server:
            server.sendall(self._renamed(request).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            return b"".join(iter(lambda: server.recv(65536), b""))

    def _renamed(self, request: bytes) -> bytes:
        """The request with the server's own name, since servers answer to no other."""
        host, port = self.server
        own = rf"(?i)\r\nhost: 127\.0\.0\.1:{self.port}\r\n"
        return re.sub(own.encode(), f"\r\nHost: {host}:{port}\r\n".encode(), request)


@contextmanager
def faulty(server: str) -> Iterator[Faulty]:
    """A proxy before the server at the address `server`, which passes everything on until it is told otherwise."""
    proxy = Faulty(server)
    try:
        yield proxy
    finally:
        proxy.close()


def _message(client: socket.socket) -> bytes:
    """One whole request, without its `Connection` header; empty when the client went away."""
    text = b""
    while b"\r\n\r\n" not in text:
        if not (more := client.recv(65536)):
            return b""
        text += more
    head, _, body = text.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length and (more := client.recv(65536)):
        body += more
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _pump(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes] = bytes) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(change(data))
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
