"""A judge behind any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, or a paid one.

Every reply is kept under the SHA-256 of its request, so that what was asked once is never paid for again. What could
not be had has no verdict; it is asked again when the evaluation is made again.
"""

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from rlhf import durable
from rlhf.config.judges import Endpoint
from rlhf.errors import ConfigError, ServiceError
from rlhf.failpoints import reach
from rlhf.judges.door import Comparison, Verdict
from rlhf.judges.question import question, read_verdict
from rlhf.manifest import json_digest

REFUSED_KEY = (401, 403)
CUT = "\n[cut at max_tokens]"  # what ends so ends with no verdict
PASSING = (408, 409, 429)  # and 5xx: the same request may succeed later
OF_ONE = (400, 413, 422)  # may be for this comparison alone, which is too long or is filtered


class EndpointJudge:
    """Asks a server about comparisons, each in the order in which it is given."""

    def __init__(self, config: Endpoint, kept: Path, progress: Callable[[int, int], None]) -> None:
        """`kept` is the directory of replies. Raises ConfigError where the environment does not hold the key."""
        self.replies: list[dict[str, str | None]] = []  # all that was said, in the order in which it was asked for
        self._config, self._kept, self._progress = config, kept, progress
        self._key = _key(config.key)
        self._left, self._answered, self._missed = config.budget, False, 0
        self._refused = ""  # what was said to a comparison that got no reply
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """A verdict for each comparison; None where the reply held none, or there is none: the budget was spent, the
        server refuses this comparison, or, having answered, answers no more.

        Raises ConfigError for a key, a model or an address that the server refuses, and ServiceError for a server that
        does not answer at all.
        """
        found = list[str | None]()
        self._stopped, self._refused = threading.Event(), ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with (
            httpx.Client(
                headers=headers,
                timeout=self._config.timeout,
                follow_redirects=False,  # the key is for this server alone
                trust_env=not self._config.is_local,  # no proxy between two programs of one machine
            ) as client,
            ThreadPoolExecutor(self._config.parallel) as pool,
        ):
            replies = [pool.submit(self._reply, client, one) for one in comparisons]
            try:
                for waiting in replies:
                    found.append(waiting.result())
                    self._progress(len(found), len(replies))
            finally:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
        if self._refused and not self._answered and not any(found):
            raise ServiceError(self._complaint(self._refused))
        verdicts = [None if reply is None else read_verdict(reply) for reply in found]
        self.replies += [
            {"prompt_id": one.prompt_id, "answer_a": one.first, "answer_b": one.second, "reply": reply, "verdict": said}
            for one, reply, said in zip(comparisons, found, verdicts, strict=True)
        ]
        return verdicts

    def _reply(self, client: httpx.Client, comparison: Comparison) -> str | None:
        """What was kept, or is had now; None where nothing can be had."""
        body = {
            "model": self._config.model,
            "messages": question(comparison),
            "temperature": 0.0,
            "max_tokens": self._config.max_tokens,
        }
        request = json_digest([self._config.url, body])
        path = self._kept / request[:2] / f"{request}.json"
        text = read_reply(path)
        if text is None:
            text = self._ask(client, body, request)
            if text:  # one that says nothing may say something another time
                _keep(path, text)
        return text

    def _ask(self, client: httpx.Client, body: dict[str, Any], request: str) -> str | None:
        """The reply; None where the budget is spent, or where a server that answers others gives none.

        `request` names the request, so that a server that knows the header does it once however often it comes.
        """
        asked_for = 0.0  # seconds that the server wants to be left alone for
        for attempt in range(self._config.retries + 1):
            pause = max(self._config.wait * 2 ** (attempt - 1), asked_for) if attempt else 0.0
            if self._stopped.wait(pause) or not self._spend():
                return None
            asked_for = 0.0
            reach("asking the judge")
            try:
                answer = self._post(client, body, request)
            except (httpx.RequestError, httpx.InvalidURL) as error:
                fault = f"gave no reply ({type(error).__name__})"
                continue
            reach("answered by the judge")
            if answer.status_code in REFUSED_KEY:
                self._stopped.set()
                raise ConfigError(self._refusal(answer.status_code))
            if answer.status_code == httpx.codes.OK and (text := _text(answer)) is not None:
                self._answered, self._missed = True, 0
                return self._without_key(text)
            said = self._without_key(answer.text)[:200]
            fault = f"answered HTTP {answer.status_code} and no chat completion ({said!r})"
            asked_for = min(_seconds(answer.headers.get("Retry-After", "")), self._config.timeout)
            if answer.status_code in OF_ONE:
                self._refused = fault
                break
            if answer.status_code not in PASSING and answer.status_code < 500:
                break
        if not self._answered and not self._refused:
            self._stopped.set()
            raise ServiceError(self._complaint(fault))
        with self._lock:
            self._missed += 1
            if self._missed >= self._config.missed:
                self._stopped.set()
        return None

    def _post(self, client: httpx.Client, body: dict[str, Any], request: str) -> httpx.Response:
        """The whole answer. Raises httpx.RequestError where it does not come within `timeout`, or does not end."""
        deadline, content = time.monotonic() + self._config.timeout, bytearray()
        url, headers = f"{self._config.url.rstrip('/')}/chat/completions", {"Idempotency-Key": request}
        with client.stream("POST", url, json=body, headers=headers) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"no whole reply within {self._config.timeout:g} s")
                if len(content) > self._config.max_bytes:
                    raise httpx.DecodingError(f"a reply of more than {self._config.max_bytes} bytes")
        again = {"Retry-After": answer.headers.get("Retry-After", "")}
        return httpx.Response(answer.status_code, headers=again, content=bytes(content))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _complaint(self, fault: str) -> str:
        return (
            f"The judge at {self._config.url} {fault} and has not answered at all. Check that it is running, serves "
            f"`{self._config.model}` and exposes /chat/completions, then correct evaluate.judge in params.yaml"
        )

    def _refusal(self, status: int) -> str:
        name = self._config.key
        mend = (
            f"Put a key that holds there into the environment variable {name}"
            if name
            else "Name the environment variable that holds its key in evaluate.judge.key of params.yaml"
        )
        return f"The judge at {self._config.url} refuses the key (HTTP {status}). {mend}"

    def _spend(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if not (key := os.environ.get(name, "").strip()):
        raise ConfigError(
            f"evaluate.judge.key of params.yaml names the environment variable {name}, which is not set. Put the key "
            "of the judge's server into it, or set evaluate.judge.key to null where it needs none"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"The environment variable {name} holds characters that no key has. Set it again")
    return key


def _seconds(text: str) -> float:
    """What a Retry-After says; 0 for a date, or nothing."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _text(answer: httpx.Response) -> str | None:
    """What the model said; None where the body is no chat completion."""
    try:
        choice = answer.json()["choices"][0]
        text, cut = choice["message"]["content"] or "", choice.get("finish_reason") == "length"
        whole = text.encode("utf-8", "replace").decode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return whole + CUT if cut else whole


def read_reply(path: Path) -> str | None:
    """A reply that was kept, unless it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["text"] if found["sha256"] == _sha256(found["text"]) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _keep(path: Path, text: str) -> None:
    """Write a reply whole, one writer at a time: another thread or stage may have asked the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        durable.write_json(path, {"text": text, "sha256": _sha256(text)})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
