"""The only way to write what must last: whole or not at all, and still there after a power cut.

A file is written beside its place, flushed to the disk and renamed. A directory is the same, and holds a MANIFEST.json (name,
size, sha256 of each file), written last: a directory without one does not exist.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "MANIFEST.json"


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what was there in one step."""
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    rename(temporary, path)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """A new directory to write into; sealed and renamed to `path` when the block ends without an error, else removed."""
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        seal(temporary)
        rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(directory: Path) -> None:
    """Flush every file of `directory` to the disk and write its manifest."""
    entries = []
    for file in _files(directory):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        entries.append({"name": str(file.relative_to(directory)), "size": file.stat().st_size, "sha256": file_digest(file)})
    write_file(directory / MANIFEST, json.dumps(entries, indent=1).encode())


def rename(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`, and make the change last."""
    if target.is_dir() and source.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Where `path` is written before it is renamed: beside it, hidden."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.writing")


def fault(directory: Path) -> str | None:
    """What is wrong with a sealed directory: a missing manifest, a file that is missing or not as it was written; None if it is whole."""
    try:
        entries = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{directory} has no readable {MANIFEST}"
    for entry in entries:
        file = directory / entry["name"]
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != entry["size"] or file_digest(file) != entry["sha256"]:
            return f"{file} is not as it was written"
    return None


def digest(path: Path) -> str:
    """Digest of an output: of its manifest if it is a directory, else of its bytes."""
    return file_digest(path / MANIFEST if path.is_dir() else path)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
