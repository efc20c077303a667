"""A server that speaks OpenAI's chat completions, with a judge behind it that each test makes up."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlhf.judges.door import Comparison

KEY = "sk-kept-from-everyone"
Answer = Callable[[dict[str, Any]], str | tuple[int, str]]  # of a question: what the model says, or a status and a body
TRICKLE = -1  # a status: a good answer that comes a byte at a time
RESET = -2  # a status: the connection breaks in the middle of a good answer


@dataclass
class Server:
    """What it was asked, and what it does: `answer` is given the JSON object of the question."""

    url: str = ""
    answer: Answer = lambda shown: "[[A]]"
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of all requests
    keys: set[str | None] = field(default_factory=set)
    names: list[str | None] = field(default_factory=list)  # of all requests: their Idempotency-Key
    finish: str = "stop"
    moved: str | None = None  # where it sends everybody
    retry_after: str | None = None


@contextmanager
def serving() -> Iterator[Server]:
    """A server on loopback that says [[A]]."""
    state, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay
        disable_nagle_algorithm, wbufsize = True, -1  # and nothing waits for more to send

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append(body)
                state.keys.add(self.headers["Authorization"])
                state.names.append(self.headers["Idempotency-Key"])
                found = state.answer(json.loads(body["messages"][1]["content"]))
            status, text = found if isinstance(found, tuple) else (200, completion(found, state.finish))
            if self.path != "/v1/chat/completions":
                status, text = 404, "no such path"
            broken = status if status in (TRICKLE, RESET) else None
            self.send_response(307 if state.moved else 200 if broken else status)
            if state.moved:
                self.send_header("Location", f"{state.moved}/chat/completions")
            self.send_header("Content-Length", str(len(text.encode())))
            if state.retry_after is not None:
                self.send_header("Retry-After", state.retry_after)
            self.end_headers()
            if broken is None:
                self.wfile.write(text.encode())
            elif broken == RESET:
                self.wfile.write(text.encode()[:-9])
                self.close_connection = True
            else:
                for byte in text.encode():
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.03)

        def log_message(self, *arguments: Any) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()


def completion(text: str, finish: str = "stop") -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]})


def comparisons(n: int) -> list[Comparison]:
    """Different answers to n prompts, the first one the better one of every pair whose number is even."""
    good, bad = "A good answer to {}.", "A bad answer to {}."
    pairs = [(good, bad) if number % 2 == 0 else (bad, good) for number in range(n)]
    return [
        Comparison(f"p{number}", [{"role": "user", "content": f"Question {number}"}], *(t.format(number) for t in pair))
        for number, pair in enumerate(pairs)
    ]


def wise(shown: dict[str, Any]) -> str:
    """Who knows which answer is good, wherever it stands."""
    return "The one that says so. [[A]]" if "good" in shown["answer_A"] else "The other one.\n[[B]]"
