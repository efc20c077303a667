"""Prefect's server on loopback, which answers only to its own pages and to programs: python -m flows.guarded PORT

Prefect looks neither at the Host of a request nor at the Origin of a WebSocket. Without a look at both, a page of any
site could read and write here through the browser of whoever runs this: by a name of its own that it turns to 127.0.0.1
(DNS rebinding), or by a WebSocket, which no browser keeps within its site.
"""

import sys

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

HOST = "127.0.0.1"


class Guard:
    """Refuses what was sent to another name than the server's, or by a page that the server did not give."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "lifespan" or self._welcome(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason="another site")(scope, receive, send)
        else:
            await PlainTextResponse("This server answers to its own pages only.", 403)(scope, receive, send)

    def _welcome(self, headers: Headers) -> bool:
        origin = headers.get("origin")  # of a browser; programs send none
        return headers.get("host") in self._hosts and (origin is None or origin.removeprefix("http://") in self._hosts)


def main(port: int) -> None:
    """Serve until the process is stopped. Prefect's settings come from the environment."""
    from prefect.server.api.server import create_app

    uvicorn.run(Guard(create_app(final=True), port), host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
