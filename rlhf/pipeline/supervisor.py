"""One stage as a supervised process: `dvc repro` in a session of its own, with deadlines, a log and a typed end.

Of `meta` in dvc.yaml, `timeout` is for all of it, `stalled` for the silence between two signs of progress: a stage that
hangs writes the stacks of its threads to its log, is ended, and may be tried again.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.errors import Exit
from rlhf.logs import log_file
from rlhf.pipeline.events import EVENTS, Listener, Progress
from rlhf.pipeline.fingerprint import packages
from rlhf.pipeline.graph import StageSpec
from rlhf.pipeline.process import ENVIRONMENT
from rlhf.pipeline.readable import refusal
from rlhf.pipeline.receipt import RUN
from rlhf.pipeline.watchdog import where
from rlhf.secrets import redact

State = Literal["ran", "restored", "cached"]
Cause = Literal["time", "stalled", "stop"]  # why a stage was ended
POLL = 0.1  # seconds between two looks at the process and its events
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
FULL = ("No space left on device", "database or disk is full")  # in DVC's words, and SQLite's
_EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `state` says what DVC did: it ran the stage, restored its outputs, or had nothing to do."""

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
    if message := _obstacle(spec, workspace):
        return Outcome("cached", Exit.DATA, message, "", None, 0.0)
    log = log_file(workspace, spec.name)
    listener = Listener(workspace, spec.name, on_progress)
    limit, silence = (float(spec.meta.get(name, "inf")) for name in ("timeout", "stalled"))
    with _repro(spec.name, workspace, run, log, listener) as (process, begins):
        cause = _wait(process, listener, started + limit, silence, stop)
        hung = where(listener.pid, log, workspace) if cause == "stalled" and listener.pid else ""
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
    state: State = "ran" if "Running stage" in said else "restored" if "is cached" in said else "cached"
    seconds = time.monotonic() - started
    return Outcome(state, code, message, listener.summary, listener.key, seconds)


def _obstacle(spec: StageSpec, workspace: Path) -> str | None:
    """What is not there that DVC would only call missing."""
    if absent := next((dep for dep in spec.deps if not (workspace / dep).exists()), None):
        return refusal(workspace / absent, "does not exist", spec)
    if spec.frozen and (lost := [path for path in spec.made if not (workspace / path).exists()]):
        return (
            f"`{spec.name}` is frozen, and has lost {', '.join(lost)}. Bring back what it made, "
            f"{shlex.join(['dvc', 'checkout', *lost])}, or have it run again: dvc unfreeze {spec.name}"
        )
    return None


@contextmanager
def _repro(
    stage: str, workspace: Path, run: str, log: Path, listener: Listener
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """DVC at work on one stage, and where its output begins in `log`. On the way out nothing of it is left alive."""
    dvc = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]  # without waiting, parallel stages lose work
    command = [sys.executable, "-m", "rlhf.pipeline.process", str(os.getpid()), *dvc]
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
    own = {"PATH": path, "SHELL": "/bin/sh"}
    return {**given, **ENVIRONMENT, **packages(), **own, EVENTS: str(events), RUN: run}


def _wait(
    process: subprocess.Popen[bytes], listener: Listener, deadline: float, silence: float, stop: threading.Event
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


def _stop(process: subprocess.Popen[bytes], stage: int | None) -> None:
    """End a session: SIGTERM to the stage, which may save a checkpoint, and SIGKILL to whatever is left after GRACE.

    DVC would die of a SIGTERM at once and take the stage with it, so it gets one only before the stage runs. When the
    stage has ended, DVC may write down what it made.
    """
    if process.poll() is None:
        with suppress(ProcessLookupError):
            if stage is None:
                process.terminate()
            elif os.getsid(stage) == process.pid:
                os.kill(stage, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdict(returned: int, listener: Listener, said: str, cause: str | None) -> tuple[Exit, str]:
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
