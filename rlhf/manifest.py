"""MANIFEST.json: name, size and SHA-256 of every file of an output, and the digest that stands for the whole.

The digest of a file is the SHA-256 of its bytes; of one that lies in an output, given only after it has been checked
against the manifest. That of a directory with a manifest is the SHA-256 of the manifest, given only after every file
has been checked against it; that of any other directory is the SHA-256 of the names and digests of its entries. DVC
does not notice a flipped byte in its own cache (dvc_data's LocalHashFileDB.check trusts mode 0444), so every input is
read through here before it is used.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from rlhf import durable
from rlhf.errors import DataError

MANIFEST = "MANIFEST.json"
RECEIPT = "receipt.json"  # of an output of a stage, which has a manifest


def write_manifest(directory: Path) -> str:
    """Write the manifest of everything in `directory`; return its digest."""
    files = {
        name: {"size": path.stat().st_size, "sha256": sha256(path)}
        for name, path in _files(directory)
        if name != MANIFEST
    }
    durable.write_json(directory / MANIFEST, {"files": files})
    return sha256(directory / MANIFEST)


def digest(path: Path) -> str:
    """The digest of a file or a directory, verified. Raises DataError, which names the first file that is wrong."""
    if path.is_file():
        if (path.parent / RECEIPT).is_file():
            _require(path, _expected(path.parent).get(path.name), _mend(path.parent))
        return sha256(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist. Run the stage that makes it (`rlhf run`), or check the path")
    if (path / MANIFEST).is_file() or (path / RECEIPT).is_file():
        return verified(path)
    entries = [f"{entry.name} {digest(entry)}\n" for entry in sorted(path.iterdir()) if _counts(entry)]
    return hashlib.sha256("".join(entries).encode()).hexdigest()


def outputs_below(path: Path) -> Iterator[Path]:
    """Every directory at or below `path` that holds a manifest."""
    if (path / MANIFEST).is_file():
        yield path
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and _counts(entry):
                yield from outputs_below(entry)


def verified(directory: Path) -> str:
    """The digest of a directory whose files have been checked against its manifest. Raises DataError, also for one
    without a manifest."""
    expected, mend = _expected(directory), _mend(directory)
    found = dict(_files(directory))
    found.pop(MANIFEST, None)
    for name in sorted(expected.keys() - found.keys()):
        raise DataError(f"{directory / name} is missing. {mend}")
    for name in sorted(found.keys() - expected.keys()):
        raise DataError(f"{found[name]} does not belong there: {directory / MANIFEST} does not name it. Remove it")
    for name, path in found.items():
        _require(path, expected[name], mend)
    return sha256(directory / MANIFEST)


def _expected(directory: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every file, by the manifest of a directory. Raises DataError for none, or a damaged one."""
    try:
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in json.loads(text)["files"].items()}
        if text != durable.as_json(json.loads(text)):
            raise ValueError
    except FileNotFoundError:
        raise DataError(f"{directory / MANIFEST} is missing. {_mend(directory)}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{directory / MANIFEST} is damaged. {_mend(directory)}") from None
    return expected


def _require(path: Path, expected: tuple[int, str] | None, mend: str) -> None:
    if (path.stat().st_size, sha256(path)) != expected:
        raise DataError(f"{path} is not the file that was written: it differs from {MANIFEST}. {mend}")


def _mend(directory: Path) -> str:
    return f"Remove {directory} and run again: it is made anew"


def json_digest(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """SHA-256, in hex, of a value as JSON with sorted keys; `default` stands in for what JSON does not know."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=default).encode()).hexdigest()


def md5(path: Path) -> str:
    """MD5 of a file's bytes, by which DVC knows it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. A file whose size, time and inode have not changed is hashed once a process."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@cache
def _sha256(path: str, size: int, mtime: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `directory` with its name relative to it, sorted."""
    paths = (Path(parent, name) for parent, _, names in os.walk(directory) for name in names)
    return iter(sorted((path.relative_to(directory).as_posix(), path) for path in paths))


def _counts(entry: Path) -> bool:
    """Whether an entry of a directory is part of it: half-written outputs and DVC's own .gitignore are not."""
    return entry.name != ".gitignore" and not entry.name.startswith(durable.PARTIAL)
