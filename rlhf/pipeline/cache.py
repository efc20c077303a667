"""The objects of DVC's cache, without DVC: files that are named after the MD5 of their bytes."""

import hashlib
import json
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rlhf import durable, manifest
from rlhf.pipeline.graph import load_graph

TREE, MD5 = ".dir", 32  # how the name of a directory's object ends; characters of a digest
AWAY = ".rlhf/damaged"  # in a workspace: what was damaged and is out of use


def object_fault(file: Path) -> str | None:
    """What is wrong with an object of the cache, whose bytes must be those of its name; None for a whole one."""
    try:
        return None if manifest.md5(file) == _md5(file) else "does not hold the bytes of its name"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def members(tree: Path) -> set[Path]:
    """The objects of the files of a directory, by the directory's own object, which must be whole."""
    entries = json.loads(tree.read_text(encoding="utf-8"))
    return {tree.parents[1] / entry["md5"][:2] / entry["md5"][2:] for entry in entries}


def recover(workspace: Path, files: Collection[Path]) -> None:
    """Bring back objects of the cache whose bytes stand in the workspace, as outputs of stages."""
    wanted = {_md5(file): file for file in files}
    for made in (workspace / path for spec in load_graph(workspace) for path in spec.made):
        found = _digests(made)
        for name, digest in found.items():
            if digest in wanted:
                _adopt(made / name, wanted[digest])
        entries = [{"md5": digest, "relpath": name} for name, digest in sorted(found.items())]
        tree = json.dumps(entries, sort_keys=True).encode()  # as DVC writes it
        digest = hashlib.md5(tree, usedforsecurity=False).hexdigest()
        if digest in wanted:
            _adopt(tree, wanted[digest])


def _digests(made: Path) -> dict[str, str]:
    """The MD5 of every file of an output that can be read, by its name in it; of a file, its own by "."."""
    found = dict[str, str]()
    for path in made.rglob("*") if made.is_dir() else [made]:
        with suppress(OSError):
            if path.is_file():
                found[path.relative_to(made).as_posix()] = manifest.md5(path)
    return found


def _adopt(content: Path | bytes, target: Path) -> None:
    """Make an object of the cache of a file, or of bytes, with the mode that DVC gives it."""
    own = durable.partial(target)
    own.parent.mkdir(parents=True, exist_ok=True)  # a pull may have brought nothing that is named alike
    if isinstance(content, bytes):
        own.write_bytes(content)
    else:
        shutil.copyfile(content, own)
    own.chmod(0o444)
    durable.publish(own, target)


def move_away(workspace: Path, path: Path) -> None:
    """Take a damaged file or directory out of use. It lies in AWAY, for people to look at."""
    place = workspace / AWAY / f"{time.time_ns()}-{path.parent.name}-{path.name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)  # a shared cache may lie on another disk


def is_object(file: Path) -> bool:
    """Whether a file of the cache is an object, and not half of one."""
    return len(_md5(file)) == MD5


def _md5(file: Path) -> str:
    """The digest that an object of the cache is named after."""
    return file.parent.name + file.name.removesuffix(TREE)
