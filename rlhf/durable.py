"""Writes that survive a crash: everything is written beside its target, brought to disk, then renamed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rlhf.failpoints import reach

PARTIAL = ".partial-"  # how the name of what is being written begins; no stage reads it and DVC ignores it


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, into which nobody but its owner looks."""
    if not directory.parent.exists():
        make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def partial(target: Path) -> Path:
    """The hidden name beside `target` under which it is written. One writer at a time: stages hold a lock."""
    return target.with_name(f"{PARTIAL}{target.name}")


def write_text(target: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OSError; the old file then still stands."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial(target)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            reach("written", temporary)
            os.fsync(file.fileno())
        os.replace(temporary, target)
        reach(f"renamed {target.name}")
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # a write that fails does not say of what
        raise
    sync_directory(target.parent)


def write_json(target: Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all. Raises ValueError for NaN and infinities."""
    write_text(target, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes. Raises ValueError for NaN and infinities."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def publish(temporary: Path, target: Path) -> None:
    """Bring a finished file or directory to disk and give it its name. What had the name before is removed.

    A crash leaves the old version, none, or the new one; never a mix.
    """
    reach("made", temporary)
    sync_tree(temporary)
    old = target.with_name(f"{PARTIAL}old-{target.name}")
    if target.is_dir() and not target.is_symlink():
        remove(old)
        os.rename(target, old)
        reach(f"moved away {target.name}")
    os.replace(temporary, target)
    reach(f"published {target.name}")
    sync_directory(target.parent)
    remove(old)  # one that a crash left, too


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        reach(f"removing {path.name}")
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_tree(path: Path) -> None:
    """fsync a file, or every file and directory below a directory."""
    if path.is_dir():
        for directory, _, names in os.walk(path):
            for name in names:
                _sync(Path(directory, name), os.O_RDONLY)
            sync_directory(Path(directory))
    else:
        _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """fsync a directory: only then does a rename in it survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
