"""Prefect's server on loopback, which answers only to its own pages and to programs: python -m flows.guarded PORT

Prefect looks neither at the Host of a request nor at the Origin of a WebSocket. Without a look at both, a page of any
site could read and write here through the browser of whoever runs this: by a name of its own that it turns to 127.0.0.1
(DNS rebinding), or by a WebSocket, which no browser keeps within its site.
"""

import gc
import sys
import threading
import time
from itertools import count
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rlhf.garbage import leave_out_loaded
from rlhf.services.ports import HOST

OLDER = (10, 60)  # searches for new garbage, of which one looks among what is older, and one among everything


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


def release_lock(home: Path) -> None:
    """Free the index of leases, which a server that was killed may have left locked.

    Prefect frees it only while no process bears that server's number, and else waits for ever, in the midst of a
    transaction that keeps everybody from writing. No other server has this home.
    """
    (home / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)


def collect_aside(every: float = 1.0) -> None:
    """From now on search for garbage in a thread of its own, not where requests are answered. `every`: seconds between
    two searches of what is new; what has outlived these is searched less often, since that takes long.

    What a failed statement leaves is freed by such a search, which waits for the connection, which may itself wait for
    a transaction that only the event loop can end: searched for there, the server would answer nobody for a minute.
    """
    gc.disable()
    leave_out_loaded()

    def collect() -> None:
        for turn in count(1):
            time.sleep(every)
            gc.collect(sum(turn % often == 0 for often in OLDER))

    threading.Thread(target=collect, daemon=True).start()


def main(port: int) -> None:
    """Serve until the process is stopped. Prefect's settings come from the environment."""
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    release_lock(get_current_settings().home)
    app = Guard(create_app(final=True), port)
    collect_aside()
    uvicorn.run(app, host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
