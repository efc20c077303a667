"""What a machine forgets that loses power: all that was written to a file since its last fsync.

Names are not forgotten: a file system with a journal keeps renames in their order, so that to forget the last of them
is to have died before them, which is tried anyway.
"""

import json
import os
from pathlib import Path
from typing import Any

OWN = (".db", ".db-journal", ".db-wal", ".db-shm")  # of SQLite, which brings its files to disk without being seen here


class Power:
    """Watches what the processes of a workspace bring to disk, in the file `log`; and fails."""

    def __init__(self, workspace: Path, log: Path) -> None:
        self._workspace, self._log = workspace, log

    def on(self) -> None:
        """From here on: what is there now is on disk."""
        lines = [json.dumps(_written(os.stat(file))) for file in self._files()]
        self._log.write_text("".join(f"{line}\n" for line in lines))

    def watch(self) -> None:
        """Note each fsync of this process, until it ends."""
        sync = os.fsync

        def noted(fd: Any) -> None:
            sync(fd)
            with open(self._log, "a") as log:
                log.write(f"{json.dumps(_written(os.fstat(fd)))}\n")

        os.fsync = noted

    def fail(self) -> None:
        """Forget what is not on disk."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines())
        on_disk = {number: (size, time) for number, size, time in lines}
        for file in self._files():
            number, size, time = _written(os.stat(file))
            if on_disk.get(number) != (size, time):
                os.truncate(file, min(size, on_disk.get(number, (0, 0))[0]))

    def _files(self) -> list[Path]:
        found = self._workspace.rglob("*")
        return [file for file in found if file.is_file() and not file.is_symlink() and not file.name.endswith(OWN)]


def _written(found: os.stat_result) -> tuple[int, int, int]:
    """What tells a file, and what was last written to it: its inode, bytes, and nanoseconds."""
    return found.st_ino, found.st_size, found.st_mtime_ns
