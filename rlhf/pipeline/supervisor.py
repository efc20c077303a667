"""One stage as a supervised process: `dvc repro` in a session of its own, with deadlines, a log and a typed end.

Of `meta` in dvc.yaml, `timeout` is for all of it, `stalled` for the silence between two signs of progress: a stage that
hangs writes the stacks of its threads to its log, is ended, and may be tried again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from rlhf import durable
from rlhf.errors import Exit
from rlhf.pipeline.events import EVENTS
from rlhf.pipeline.fingerprint import ROOT
from rlhf.pipeline.graph import StageSpec
from rlhf.pipeline.process import ENVIRONMENT
from rlhf.pipeline.stage import JOURNAL, RUN
from rlhf.secrets import redact

State = Literal["ran", "restored", "skipped"]
Cause = Literal["time", "stalled", "stop"]  # why a stage was ended
Progress = Callable[[int, int, str], None]  # done, total, label
POLL = 0.1  # seconds between two looks at the process and its events
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
ANSWER = 2.0  # seconds that a stage has to write where it is
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_THREAD = re.compile(r"^(?:Current t|T)hread 0x", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)  # of faulthandler
FULL = ("No space left on device", "database or disk is full")  # in DVC's words, and SQLite's
_EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `state` says what DVC did: it ran the stage, restored its outputs, or had nothing to do."""

    stage: str
    state: State
    exit: Exit
    message: str  # of a failure: what, where, what to do
    summary: str  # the stage's own line, when it ran
    key: str | None  # stage key, when it ran
    seconds: float


def supervise(spec: StageSpec, workspace: Path, run: str, stop: threading.Event, on_progress: Progress) -> Outcome:
    """Bring one stage up to date by `dvc repro` and wait for it; it is stopped when `stop` is set or its time is up.

    `run` is the id of the pipeline run, for the stage's journal. The process dies with this one, however this one dies.
    """
    started = time.monotonic()
    for dep in spec.deps:
        if not (workspace / dep).exists():
            message = f"{workspace / dep} does not exist; stage `{spec.name}` needs it. Check the path in dvc.yaml"
            return Outcome(spec.name, "skipped", Exit.DATA, message, "", None, 0.0)
    log = workspace / ".rlhf" / "logs" / f"{spec.name}.log"
    listener = _Listener(workspace, spec.name, on_progress)
    limit, silence = (float(spec.meta.get(name, "inf")) for name in ("timeout", "stalled"))
    hung = ""
    with _repro(spec.name, workspace, run, log, listener) as (process, begins):
        cause = _wait(process, listener, started + limit, silence, stop)
        if cause == "stalled":
            hung = _where(listener.pid, log, workspace)
    said = redact(_ANSI.sub("", log.read_bytes()[begins:].decode("utf-8", "replace")))
    if cause == "time":
        code = Exit.FAILED
        message = (
            f"took longer than {limit:g} s, its `meta.timeout` in dvc.yaml, and was stopped. Raise it, or see {log}"
        )
    elif cause == "stalled":
        code = Exit.RETRYABLE
        message = (
            f"showed no progress for {silence:g} s, its `meta.stalled` in dvc.yaml, and was ended {hung}. "
            f"{log} has the stacks of its threads"
        )
    else:
        code, message = _verdict(process.returncode, listener, said, cause)
    state: State = "ran" if "Running stage" in said else "restored" if "is cached" in said else "skipped"
    seconds = time.monotonic() - started
    return Outcome(spec.name, state, code, message, listener.summary, listener.key, seconds)


class _Listener:
    """The reader of a stage's events, and what they have told so far."""

    def __init__(self, workspace: Path, stage: str, on_progress: Progress) -> None:
        self.file = workspace / ".rlhf" / "events" / f"{stage}.jsonl"
        durable.make_private(self.file.parent)
        self.file.write_bytes(b"")
        self.pid: int | None = None
        self.key: str | None = None
        self.summary = ""
        self.end: tuple[Exit, str] | None = None
        self._work = workspace / ".work"
        self._heard, self._at = (0, 0), time.monotonic()  # bytes of events and of the journal, and since when
        self._offset = 0
        self._on_progress = on_progress

    def read(self) -> None:
        """Take in the whole lines that have come since the last call."""
        with open(self.file, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                with suppress(ValueError, LookupError, TypeError):  # of a damaged line: DVC says how the stage ended
                    self._take(json.loads(line))

    def silence(self) -> float:
        """Seconds for which the stage that is at work has neither told nor recorded anything; 0 when none is."""
        journal = self._work / str(self.key) / JOURNAL
        heard = self._offset, journal.stat().st_size if journal.is_file() else 0
        if heard != self._heard or self.pid is None or self.end:
            self._heard, self._at = heard, time.monotonic()
        return time.monotonic() - self._at

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "progress":
                self._on_progress(event["done"], event["total"], event["label"])
            case "key":
                self.key, self.pid = event["key"], event["pid"]
            case "summary":
                self.summary = event["text"]
            case "exit":
                self.end = Exit(event["code"]), event["message"]


@contextmanager
def _repro(
    stage: str, workspace: Path, run: str, log: Path, listener: _Listener
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """DVC at work on one stage, and where its output begins in `log`. On the way out nothing of it is left alive."""
    dvc = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]  # without waiting, parallel stages lose work
    command = [sys.executable, "-m", "rlhf.pipeline.process", str(os.getpid()), *dvc]
    durable.make_private(log.parent)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env=_environment(listener.file, run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        begins = os.fstat(output.fileno()).st_size
    try:
        yield process, begins
    finally:
        _stop(process, listener.pid)
        listener.read()


def _environment(events: Path, run: str) -> dict[str, str]:
    """The environment of a stage: this Python first in PATH, this project's packages before those of the workspace.

    A stage asks neither Prefect nor MLflow, and is not given what opens them.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    packages = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PATH": path, "PYTHONPATH": packages, "PYTHONSAFEPATH": "1", "SHELL": "/bin/sh"}
    return {**given, **ENVIRONMENT, **own, EVENTS: str(events), RUN: run}


def _wait(
    process: subprocess.Popen[bytes], listener: _Listener, deadline: float, silence: float, stop: threading.Event
) -> Cause | None:
    """Wait for the end of a process; return why the wait was given up, if it was."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
            return None
        listener.read()
        if stop.is_set():
            return "stop"
        if time.monotonic() > deadline:
            return "time"
        if listener.silence() > silence:
            return "stalled"


def _where(stage: int | None, log: Path, workspace: Path) -> str:
    """In words, where a stage hangs: of the main thread's stack, which comes to the log, the innermost of our lines."""
    begins, words = log.stat().st_size, ""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(stage)
        words = "where a signal had stopped it, " if process.status() == psutil.STATUS_STOPPED else ""
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGCONT)  # one that is stopped does not answer
    deadline, frames = time.monotonic() + ANSWER, list[tuple[str, str, str]]()
    while not frames and time.monotonic() < deadline:
        time.sleep(POLL)
        dump = log.read_bytes()[begins:].decode("utf-8", "replace")
        frames = _FRAME.findall(_THREAD.split(dump)[-1])  # the main thread comes last
    ours = [frame for frame in frames if _is_ours(Path(frame[0]), workspace)]
    for file, line, function in (ours or frames)[:1]:
        return f"{words}in {function} of {file}, line {line}"
    return "in a place that it could not tell: the kernel holds it"


def _is_ours(file: Path, workspace: Path) -> bool:
    """Whether a file is of the project or the workspace, and of no package that is installed there."""
    return "site-packages" not in file.parts and any(root in file.parents for root in (ROOT, workspace))


def _stop(process: subprocess.Popen[bytes], stage: int | None) -> None:
    """End a session: SIGTERM to the stage, which may save a checkpoint, and SIGKILL to whatever is left after GRACE.

    DVC would die of a SIGTERM at once and take the stage with it, so it gets one only when no stage runs.
    """
    if process.poll() is None:
        with suppress(ProcessLookupError):
            alive = stage is not None and os.getsid(stage) == process.pid
            os.kill(stage if stage is not None and alive else process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdict(returned: int, listener: _Listener, said: str, cause: str | None) -> tuple[Exit, str]:
    """Exit code and message of a process that ended: from the stage's own event, else from what DVC said."""
    if returned == 0:
        return Exit.DONE, ""
    if listener.end and listener.end[0] != Exit.DONE:
        return listener.end
    if cause == "stop":
        return Exit.PREEMPTED, "stopped"
    errors = [line.partition("ERROR: ")[2] for line in said.splitlines() if "ERROR: " in line]
    message = errors[-1] if errors else f"dvc ended with exit code {returned}"
    if any(full in said for full in FULL):
        return Exit.DISK_FULL, f"{message}. Make room and run again; earlier outputs are untouched"
    exited = _EXITED.search(message)
    code = int(exited[1]) if exited else Exit.FAILED
    if code < 0 or code > 128:  # by a signal; a shell adds 128 to its number
        return Exit.PREEMPTED, f"was killed by signal {-code if code < 0 else code - 128}"
    return Exit(code) if code in set(Exit) else Exit.FAILED, message
