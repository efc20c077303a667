"""What an exception of a stage means: its exit code and the one message that a person reads."""

import os
import sys
import traceback
from pathlib import Path

from rlhf.errors import DiskFull, Exit, UserError, first_line
from rlhf.logs import log_file
from rlhf.secrets import redact

DEBUG = "RLHF_DEBUG"
NO_MEMORY = (  # what torch says where an allocator other than its own found none
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # of segments that grow
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def explain(error: BaseException, stage: str, workspace: Path) -> tuple[Exit, str]:
    """The exit code for `error` and its message. The traceback of a fault of the program goes to the stage's log."""
    if isinstance(error, UserError):
        return Exit(error.exit), str(error)
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == Exit.PREEMPTED):
        return Exit.PREEMPTED, "stopped before it was finished; the next run goes on from the last checkpoint"
    if full := DiskFull.behind(error, workspace):
        return full.exit, str(full)
    log = _log_traceback(error, stage, workspace)
    if _out_of_memory(error):
        return Exit.OUT_OF_MEMORY, f"out of memory ({first_line(error)}; {log})"
    return Exit.FAILED, f"{type(error).__name__}: {first_line(error)}; {log}"


def _out_of_memory(error: BaseException) -> bool:
    """MemoryError and torch's, known by name and text: a process that has no torch must not import it to find out."""
    kind = type(error)
    from_torch = kind.__module__.split(".")[0] == "torch" and kind.__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or from_torch or any(text in str(error) for text in NO_MEMORY)


def _log_traceback(error: BaseException, stage: str, workspace: Path) -> str:
    """Append the traceback to the stage's log; return where it is, in words."""
    text = redact("".join(traceback.format_exception(error)))
    if os.environ.get(DEBUG) == "1":
        sys.stderr.write(text)
    try:
        log = log_file(workspace, stage)
        with open(log, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        return f"its traceback could not be written to the stage's log ({fault.strerror}); {DEBUG}=1 shows it"
    return f"traceback in {log.relative_to(workspace)}"
