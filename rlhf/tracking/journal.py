"""Append-only journal of checksummed JSON lines: the truth of a stage or a pipeline run until MLflow has it.

A line is one JSON object whose first field is the CRC-32 of the object without that field:

    {"crc":"5f0cbb2a","kind":"metrics","time":1763692800.123,"step":10,"values":{"loss":2.31}}

A process that dies while it writes leaves a torn last line. Opening the journal for writing cuts it off; a reader stops
before it. A bad line with good ones after it is damage, and an error that names file and line.
"""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rlhf import durable
from rlhf.errors import Busy, DataError, require_format
from rlhf.failpoints import reach
from rlhf.locks import take

WORK, JOURNAL = ".work", "journal.jsonl"  # of a workspace: a directory for each stage key; in it
RUNS = ".rlhf/runs"  # of a workspace: a journal for each pipeline run
FORMAT = 1  # of a journal, in its first record
SYNC_SECONDS = 1.0  # a machine that loses power loses at most the lines of this long
LOCK_SECONDS = 0.5  # `alive` holds the lock for an instant; a journal that stays locked longer has a writer

HEAD = len('{"crc":"00000000",')  # characters of a line before what is checksummed


class Journal:
    """The writer of a journal, one at a time; `with Journal(path) as journal: journal.write("start", ...)`."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, making it and its directory, and cut off a torn tail.

        Raises Busy when another process writes it, DataError when a line in the middle is damaged.
        """
        durable.make_private(path.parent)
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            if not take(self._file.fileno(), LOCK_SECONDS):
                raise Busy(f"{path} is being written by another process. Wait until it ends, or stop it")
            end = max((offset for _, offset in read_from(path, 0)), default=0)
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def write(self, kind: str, **fields: Any) -> None:
        """Append one record, or none of it. `time` (seconds since 1970) is added unless it is given. Raises OSError."""
        end = os.fstat(self._file.fileno()).st_size
        begins = {} if end else {"format": FORMAT}
        record = {"kind": kind, "time": round(time.time(), 3), **begins, **fields}
        body = json.dumps(record, separators=(",", ":")).encode()
        line = b'{"crc":"%08x",' % zlib.crc32(body) + body[1:] + b"\n"
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            reach("noted", self.path, len(line))
        except OSError:  # the disk may have room again for the next line, which must not follow half of this one
            self._file.truncate(end)
            raise
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Bring everything to disk and let go of the journal."""
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stage_journal(workspace: Path, key: str) -> Path:
    """Where a stage keeps its journal."""
    return workspace / WORK / key / JOURNAL


def pipeline_journal(workspace: Path, run: str) -> Path:
    """Where the flow keeps the journal of a pipeline run."""
    return workspace / RUNS / f"{run}.jsonl"


def journals(workspace: Path) -> list[Path]:
    """Every journal of a workspace, the oldest stage first; those of pipeline runs, which point to stages, last."""
    stages, pipelines = workspace.glob(f"{WORK}/*/{JOURNAL}"), workspace.glob(f"{RUNS}/*.jsonl")
    return sorted(stages, key=lambda path: path.stat().st_mtime) + sorted(pipelines)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of a journal. Raises DataError at a damaged line that is not the last."""
    return (record for record, _ in read_from(path, 0))


def read_from(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole records from byte `offset` on, each with the offset after it: where the next call goes on.

    Raises DataError at a damaged line that is not the last, and for a journal of another format.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            record = _parse(line)
            if record is None:
                if file.read(1):
                    raise DataError(f"{path}: line {_line_number(path, offset)} is damaged. `rlhf scrub` moves it away")
                return
            if offset == 0:
                require_format(path, record.get("format"), FORMAT)
            offset += len(line)
            yield record, offset


def stage_records(workspace: Path, key: str) -> Iterator[dict[str, Any]]:
    """Every whole record of a stage's journal; none where it ran elsewhere. Raises DataError as `read` does."""
    path = stage_journal(workspace, key)
    return read(path) if path.exists() else iter(())


def alive(path: Path) -> bool:
    """Whether a process has the journal open for writing."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None when the line is damaged."""
    body = b"{" + line[HEAD:-1]
    if line[:HEAD] != b'{"crc":"%08x",' % zlib.crc32(body):
        return None
    return json.loads(body)


def _line_number(path: Path, offset: int) -> int:
    with open(path, "rb") as file:
        return file.read(offset).count(b"\n") + 1
