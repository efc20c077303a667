"""What a running stage tells: lines of JSON that its supervisor reads, or a progress bar for who started it by hand."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable
from rlhf.errors import Exit
from rlhf.text import printable
from rlhf.tracking.journal import stage_journal

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

EVENTS = "RLHF_EVENTS"  # environment: the file that the supervisor reads
SECONDS = 0.2  # between two progress events
Progress = Callable[[int, int, str], None]  # done, total, label


class Events:
    """Events of one stage, to the file that RLHF_EVENTS names or else to the terminal."""

    def __init__(self, stage: str) -> None:
        file = os.environ.get(EVENTS)
        self._file = Path(file) if file else None
        self._stage = stage
        self._next = 0.0
        self._bar: tuple[Bar, TaskID] | None = None

    def progress(self, done: int, total: int, label: str) -> None:
        """`done` of `total` is finished. Calls that come too fast are dropped, the last one never."""
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + SECONDS
        if self._file:
            self.emit("progress", done=done, total=total, label=label)
        else:
            self._draw(done, total, label)

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event for the supervisor; without one, only a summary and a fault are shown. No text steers a
        terminal."""
        fields = {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}
        if self._file:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, **fields}) + "\n")
        elif event in ("summary", "exit") and (text := fields.get("text") or fields.get("message")):
            self.close()
            sys.stderr.write(f"{self._stage}: {text}\n")

    def close(self) -> None:
        """Take the progress bar down."""
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _draw(self, done: int, total: int, label: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            progress = Bar(console=Console(stderr=True), transient=True)
            progress.start()
            self._bar = progress, progress.add_task(self._stage, total=total)
        progress, task = self._bar
        progress.update(task, completed=done, total=total, description=f"{self._stage} {label}".strip())


class Listener:
    """The reader of a stage's events, and what they have told so far."""

    def __init__(self, workspace: Path, stage: str, on_progress: Progress) -> None:
        self.file = workspace / ".rlhf" / "events" / f"{stage}.jsonl"
        durable.make_private(self.file.parent)
        self.file.write_bytes(b"")
        self.pid: int | None = None
        self.key: str | None = None
        self.summary = ""
        self.end: tuple[Exit, str] | None = None
        self._workspace = workspace
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
        journal = stage_journal(self._workspace, str(self.key))
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
            case "exit" if self.end is None or self.end[0] == Exit.DONE:  # others are ended for the first that failed
                self.end = Exit(event["code"]), event["message"]
