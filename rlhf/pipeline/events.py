"""What a running stage tells: lines of JSON for its supervisor, or a progress bar for who started it by hand."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVENTS = "RLHF_EVENTS"  # environment: the file that the supervisor reads
SECONDS = 0.2  # between two progress events


class Events:
    """Events of one stage, to the file that RLHF_EVENTS names or else to the terminal."""

    def __init__(self, stage: str) -> None:
        file = os.environ.get(EVENTS)
        self._file = Path(file) if file else None
        self._stage = stage
        self._next = 0.0
        self._bar: tuple[Progress, TaskID] | None = None

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
        """Write one event for the supervisor; without one, only a summary and a fault are shown."""
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
            from rich.progress import Progress

            progress = Progress(console=Console(stderr=True), transient=True)
            progress.start()
            self._bar = progress, progress.add_task(self._stage, total=total)
        progress, task = self._bar
        progress.update(task, completed=done, total=total, description=f"{self._stage} {label}".strip())
