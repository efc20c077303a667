"""DVC behind a narrow interface: the only importer of dvc. Everything here runs in this process."""

import hashlib
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable, manifest
from rlhf.errors import Busy, ConfigError, DataError, ServiceError
from rlhf.garbage import loading
from rlhf.pipeline.graph import StageSpec, load_graph
from rlhf.pipeline.process import is_alive
from rlhf.tracking.outputs import DvcLock, damaged_lock

if TYPE_CHECKING:
    from dvc.repo import Repo

SETTINGS = {
    ("cache", "type"): "reflink,hardlink,symlink,copy",  # no second copy of a model where the file system allows
    ("core", "analytics"): "false",
    ("core", "autostage"): "false",
}
NOT_VERSIONED = ("/.work", "/.rlhf", "/mlflow.db*", "/mlartifacts", "__pycache__/")
IGNORED_BY_DVC = (f"{durable.PARTIAL}*", ".gitignore")

TREE, MD5 = ".dir", 32  # how the name of a directory's object ends; characters of a digest
AWAY = ".rlhf/damaged"  # in a workspace: what was damaged and is out of use

DYING = 5.0  # seconds that the processes of a run that was killed may take to end


def init_workspace(workspace: Path) -> None:
    """Make a directory a git and DVC repository with the project's settings. What is there already is kept."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    workspace.mkdir(parents=True, exist_ok=True)
    if not (workspace / ".git").exists():
        _git(workspace, "init", "--quiet")
    if not (workspace / ".dvc").exists():
        Repo.init(str(workspace)).close()
    with _repository(workspace) as repo, repo.config.edit("repo") as config:
        for (section, option), value in SETTINGS.items():
            config.setdefault(section, {})[option] = value
    _add_lines(workspace / ".gitignore", NOT_VERSIONED)
    _add_lines(workspace / ".dvcignore", IGNORED_BY_DVC)


def changes(workspace: Path) -> dict[str, list[Any]]:
    """What is not as it was at the last run of a stage, by its name: what `dvc status --json` prints.

    The processes of a run that was killed take a moment to follow it. Raises Busy when others go on, DataError for a
    damaged dvc.lock.
    """
    _ = DvcLock(workspace).stages  # DVC would not say what to do about a damaged one
    deadline = time.monotonic() + DYING
    while True:
        try:
            with _repository(workspace) as repo:
                return {address.rpartition(":")[2]: found for address, found in repo.status().items()}  # path:name
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            clear_dead_locks(workspace)


def stale_stages(workspace: Path) -> set[str]:
    """Names of the stages whose command, params, inputs or outputs are not those of their last run."""
    return set(changes(workspace))


def clear_dead_locks(workspace: Path) -> None:
    """Remove the locks that killed DVC processes left on inputs and outputs.

    DVC does so itself once a process is gone from the system. One that is dead and that nobody reaps, as in a container
    without an init, never goes.
    """
    file = workspace / ".dvc" / "tmp" / "rwlock"
    text = file.read_bytes() if file.exists() else b""
    if text:
        try:
            locks = json.loads(text)
        except ValueError:  # torn by a death that took the locks with it
            file.unlink()
            return
        readers = {path: [by for by in held if is_alive(by["pid"])] for path, held in locks.get("read", {}).items()}
        writers = {path: by for path, by in locks.get("write", {}).items() if is_alive(by["pid"])}
        kept = {"read": {path: held for path, held in readers.items() if held}, "write": writers}
        durable.write_text(file, json.dumps(kept))


def edges(workspace: Path) -> set[tuple[str, str]]:
    """DVC's own graph as pairs (stage, stage that it waits for)."""
    with _repository(workspace) as repo:
        return {(one.name, other.name) for one, other in repo.index.graph.edges}


def push(workspace: Path, remote: str | None = None) -> int:
    """Send outputs and the run cache to a remote; return how many files went."""
    with _repository(workspace) as repo:
        return repo.push(run_cache=True, remote=remote)


def pull(workspace: Path, remote: str | None = None) -> int:
    """Fetch outputs and the run cache from a remote; return how many files came.

    Raises DataError when something did not come, or came damaged; it is removed then, and the next run makes it anew.
    """
    from dvc.exceptions import CheckoutError

    with _repository(workspace) as repo:
        fetched, absent = 0, list[str]()
        try:
            fetched = repo.pull(run_cache=True, remote=remote).get("fetched", 0)
        except CheckoutError as error:
            absent = [
                f"The remote does not hold {path}, or not whole: `rlhf run` makes it anew"
                for path in error.target_infos
            ]
        damage = [found for spec in load_graph(workspace) if (found := _drop_damaged(repo, workspace, spec))]
    if damage or absent:
        raise DataError("; ".join([*damage, *absent]))
    return fetched


def drop_damaged(workspace: Path, spec: StageSpec) -> str | None:
    """Verify a stage's outputs and DVC's objects of them; move damaged objects away and remove the outputs.

    Returns what was wrong, or None. After a removal the next run restores the stage from a remote or makes it anew.
    """
    with _repository(workspace) as repo:
        return _drop_damaged(repo, workspace, spec)


def cache_objects(workspace: Path) -> list[Path]:
    """Every object of DVC's cache, also those of earlier runs and of other workspaces that share it."""
    with _repository(workspace) as repo:
        place = Path(repo.cache.local.path)
    return sorted(path for path in place.glob("??/*") if len(_md5(path)) == MD5)


def object_fault(file: Path) -> str | None:
    """What is wrong with an object of the cache, whose bytes must be those of its name; None for a whole one."""
    return None if manifest.md5(file) == _md5(file) else "does not hold the bytes of its name"


def members(tree: Path) -> set[Path]:
    """The objects of the files of a directory, by the directory's own object, which must be whole."""
    entries = json.loads(tree.read_text(encoding="utf-8"))
    return {tree.parents[1] / entry["md5"][:2] / entry["md5"][2:] for entry in entries}


def recover(workspace: Path, files: Collection[Path]) -> None:
    """Bring back objects of the cache whose bytes stand in the workspace, as outputs of stages."""
    wanted = {_md5(file): file for file in files}
    for made in (workspace / path for spec in load_graph(workspace) for path in spec.made):
        inside = [path for path in made.rglob("*") if path.is_file()] if made.is_dir() else [made]
        found = {path: manifest.md5(path) for path in inside if path.is_file()}
        for path in (path for path, digest in found.items() if digest in wanted):
            own = durable.partial(wanted[found[path]])
            shutil.copyfile(path, own)
            _adopt(own, wanted[found[path]])
        names = {path.relative_to(made).as_posix(): digest for path, digest in found.items()}
        entries = [{"md5": digest, "relpath": name} for name, digest in sorted(names.items())]
        tree = json.dumps(entries, sort_keys=True).encode()  # as DVC writes it
        digest = hashlib.md5(tree, usedforsecurity=False).hexdigest()
        if digest in wanted:
            own = durable.partial(wanted[digest])
            own.write_bytes(tree)
            _adopt(own, wanted[digest])


def _adopt(own: Path, target: Path) -> None:
    """Make a file an object of the cache, with the mode that DVC gives it."""
    own.chmod(0o444)
    durable.publish(own, target)


def fetch(workspace: Path, files: Collection[Path]) -> list[Path]:
    """Have DVC bring objects of the cache from the remote, and verify them; return those that are whole now.

    Without a remote nothing comes; what comes damaged is moved away.
    """
    with _repository(workspace) as repo:
        if files and repo.config["core"].get("remote"):
            from dvc_data.hashfile.hash_info import HashInfo

            repo.cloud.pull([HashInfo("md5", file.parent.name + file.name) for file in files])
    for file in (file for file in files if file.is_file() and object_fault(file)):
        move_away(workspace, file)
    return [file for file in files if file.is_file()]


def restore(workspace: Path, paths: Collection[Path]) -> None:
    """Put outputs from the cache where they belong, as far as the cache has them."""
    from dvc.exceptions import CheckoutError

    with _repository(workspace) as repo, suppress(CheckoutError):
        repo.checkout([str(path) for path in paths], force=True)


def move_away(workspace: Path, path: Path) -> None:
    """Take a damaged file or directory out of use. It lies in AWAY, for people to look at."""
    place = workspace / AWAY / f"{time.time_ns()}-{path.parent.name}-{path.name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)  # a shared cache may lie on another disk


def _drop_damaged(repo: "Repo", workspace: Path, spec: StageSpec) -> str | None:
    damage = []
    try:
        for path in spec.outs:
            if (workspace / path).exists():
                manifest.digest(workspace / path)
    except DataError as error:
        damage.append(str(error))
    for file in _objects(repo, spec):
        if fault := object_fault(file):
            damage.append(f"{file} {fault}")
            move_away(workspace, file)
    for path in spec.made if damage else ():
        durable.remove(workspace / path)
    return damage[0] if damage else None


def _objects(repo: "Repo", spec: StageSpec) -> Iterator[Path]:
    """The objects of a stage's outputs that are in the cache; those of a directory before its own."""
    place = Path(repo.cache.local.path)
    outs = (out for stage in repo.index.stages if stage.name == spec.name for out in stage.outs)
    for oid in (out.hash_info.value for out in outs if out.hash_info):
        file = place / oid[:2] / oid[2:]
        if file.is_file() and oid.endswith(TREE) and not object_fault(file):
            yield from (member for member in sorted(members(file)) if member.is_file())
        if file.is_file():
            yield file


def _md5(file: Path) -> str:
    """The digest that an object of the cache is named after."""
    return file.parent.name + file.name.removesuffix(TREE)


@contextmanager
def _repository(workspace: Path) -> Iterator["Repo"]:
    """An open DVC repository whose errors are ours."""
    with loading():
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.lock import LockError
        from dvc.repo import Repo
        from dvc.utils.strictyaml import YAMLValidationError

    try:
        with Repo(str(workspace), _wait_for_lock=False) as repo:
            yield repo
    except LockError as error:
        raise Busy(f"DVC in {workspace} is in use: {error}. Wait until it ends") from None
    except NotDvcRepoError:
        raise ConfigError(f"{workspace} is not a workspace: DVC does not know it. Make one: rlhf init DIR") from None
    except YAMLValidationError as error:
        if Path(error.path).name == "dvc.lock":
            raise damaged_lock(workspace / "dvc.lock") from None
        raise ConfigError(f"{workspace / 'dvc.yaml'}: {error}") from None
    except DvcException as error:
        raise ServiceError(f"DVC in {workspace}: {error}") from None


def _git(workspace: Path, *arguments: str) -> None:
    try:
        subprocess.run(["git", "-C", str(workspace), *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        raise ConfigError("git is not installed; a workspace needs it. Install git and run again") from None


def _add_lines(file: Path, lines: tuple[str, ...]) -> None:
    """Add the lines that a file does not hold yet."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if missing:
        durable.write_text(
            file, "".join([text, "" if text.endswith("\n") or not text else "\n", *(f"{m}\n" for m in missing)])
        )
