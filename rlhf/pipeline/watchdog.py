"""Where a stage hangs: SIGUSR1 has it write the stacks of its threads to its log (rlhf/pipeline/process.py)."""

import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from rlhf.pipeline.fingerprint import ROOT

ANSWER = 2.0  # seconds that a stage has to write where it is
POLL = 0.1  # seconds between two looks at its log
_THREAD = re.compile(r"^(?:Current t|T)hread 0x", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)  # of faulthandler


def where(stage: int, log: Path, workspace: Path) -> str:
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
