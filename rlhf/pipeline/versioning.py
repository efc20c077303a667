"""DVC behind a narrow interface: the only importer of dvc. Everything here runs in this process."""

import json
import logging
import shlex
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable, manifest
from rlhf.errors import Busy, ConfigError, DataError, ServiceError
from rlhf.garbage import loading
from rlhf.pipeline.cache import TREE, is_object, members, move_away, object_fault
from rlhf.pipeline.graph import Graph, StageSpec, load_graph, within
from rlhf.pipeline.process import is_alive
from rlhf.pipeline.readable import require_deps
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

DYING = 5.0  # seconds that the processes of a run that was killed may take to end


def init_workspace(workspace: Path) -> None:
    """Make a directory a git and DVC repository with the project's settings. What is there already is kept."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    workspace.mkdir(parents=True, exist_ok=True)
    _git(workspace, "init", "--quiet")  # of a repository that is there it changes nothing
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
    damaged dvc.lock and a dep that DVC could not read.
    """
    _ = DvcLock(workspace).stages  # DVC would not say what to do about a damaged one
    for spec in load_graph(workspace):
        require_deps(workspace, spec)
    deadline = time.monotonic() + DYING
    while True:
        try:
            with _repository(workspace) as repo:
                found = ((*address.rpartition(":")[::2], what) for address, what in repo.status().items())
                return {name: what for path, name, what in found if _is_graph(path, workspace)}
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            clear_dead_locks(workspace)


def _is_graph(path: str, workspace: Path) -> bool:
    """Whether what DVC names before a stage's name is dvc.yaml of the workspace: directories in it may hold others."""
    return not path or Path(path).resolve() == (workspace / "dvc.yaml").resolve()


def stale_stages(workspace: Path) -> set[str]:
    """Names of the stages whose command, params, inputs or outputs are not those of their last run."""
    return set(changes(workspace))


def clear_dead_locks(workspace: Path) -> None:
    """Remove the locks that killed DVC processes left on inputs and outputs.

    DVC does so itself once a process is gone from the system. One that is dead and that nobody reaps, as in a container
    without an init, never goes.
    """
    file = workspace / ".dvc" / "tmp" / "rwlock"
    if not file.exists():
        return
    with loading():
        from dvc.lock import LockError, make_lock
    with suppress(LockError), make_lock(f"{file}.lock"):  # held by whoever edits the file
        try:
            locks = json.loads(file.read_bytes() or "{}")
        except ValueError:  # torn by a death that took the locks with it
            file.unlink()
            return
        readers = {path: [by for by in held if is_alive(by["pid"])] for path, held in locks.get("read", {}).items()}
        writers = {path: by for path, by in locks.get("write", {}).items() if is_alive(by["pid"])}
        kept = {"read": {path: held for path, held in readers.items() if held}, "write": writers}
        if kept != {"read": {}, "write": {}} | locks:
            durable.write_text(file, json.dumps(kept))


def require_no_writer(workspace: Path) -> None:
    """Raises Busy while a process of DVC makes outputs: that of a `dvc repro` by hand, which holds no workspace."""
    try:
        writers = json.loads((workspace / ".dvc" / "tmp" / "rwlock").read_bytes() or "{}").get("write", {})
    except (FileNotFoundError, ValueError):  # ValueError: somebody writes it just now
        return
    for path, by in writers.items():
        if is_alive(by["pid"]):
            raise Busy(f"{path} is being made: process {by['pid']}, `{by['cmd']}`. Wait until it ends, or stop it")


def remove_unmade(workspace: Path, graph: Graph) -> list[str]:
    """Remove what stages that are gone from params.yaml or dvc.yaml left in a directory that another stage depends on,
    such as models/reward; return the paths.

    DVC hashes all that lies there, and pushes what a stage makes: another clone could never have the same directory.
    What dvc.lock does not know as an output of a stage is somebody's, and stays.
    """
    recorded = {out["path"] for stage in DvcLock(workspace).stages.values() for out in stage.get("outs", ())}
    deps, made = ({path for spec in graph for path in getattr(spec, kind)} for kind in ("deps", "made"))
    left = [
        path
        for path in sorted(recorded)
        if any(within(path, dep) for dep in deps)
        and not any(within(dep, path) for dep in deps)
        and not any(within(path, out) or within(out, path) for out in made)
        and (workspace / path).exists()
    ]
    for path in left:
        durable.remove(workspace / path)
    return left


def drop_damaged(workspace: Path, spec: StageSpec) -> str | None:
    """Verify a stage's outputs and DVC's objects of them; move damaged objects away and remove the outputs.

    Returns what was wrong, or None. After a removal the next run restores the stage from a remote or makes it anew.
    """
    damage = []
    try:
        for path in spec.outs:
            if (workspace / path).exists():
                manifest.digest(workspace / path)
    except DataError as error:
        damage.append(str(error))
    with _repository(workspace) as repo:
        for file in _objects(repo, spec):
            if fault := object_fault(file):
                damage.append(f"{file} {fault}")
                move_away(workspace, file)
    for path in spec.made if damage else ():
        durable.remove(workspace / path)
    return damage[0] if damage else None


def cache_objects(workspace: Path) -> list[Path]:
    """Every object of DVC's cache, also those of earlier runs and of other workspaces that share it."""
    with _repository(workspace) as repo:
        place = Path(repo.cache.local.path)
    return sorted(path for path in place.glob("??/*") if is_object(path))


def fetch(workspace: Path, files: Collection[Path]) -> None:
    """Have DVC bring objects of the cache from the remote, and verify them.

    Without a remote nothing comes; what comes damaged is moved away.
    """
    with _repository(workspace) as repo:
        if files and repo.config["core"].get("remote"):
            from dvc_data.hashfile.hash_info import HashInfo

            repo.cloud.pull([HashInfo("md5", file.parent.name + file.name) for file in files])
    for file in (file for file in files if file.is_file() and object_fault(file)):
        move_away(workspace, file)


def restore(workspace: Path, paths: Collection[Path]) -> None:
    """Put outputs from the cache where they belong, as far as the cache has them."""
    from dvc.exceptions import CheckoutError

    with _repository(workspace) as repo, suppress(CheckoutError):
        repo.checkout([str(path) for path in paths], force=True)


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


@contextmanager
def _repository(workspace: Path) -> Iterator["Repo"]:
    """An open DVC repository whose errors are ours."""
    with loading():
        from dvc.config import ConfigError as DvcConfigError
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.lock import LockError
        from dvc.repo import Repo
        from dvc.scm import SCMError
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
        faults = (f"`{'.'.join(map(str, fault.path))}`: {fault.error_message}" for fault in error.exc.errors)
        raise ConfigError(f"{workspace / 'dvc.yaml'}: {'; '.join(faults)}") from None
    except SCMError:
        place = shlex.quote(str(workspace))
        raise ConfigError(f"{workspace} is no git repository, and DVC needs one. Make it: git init {place}") from None
    except DvcConfigError as error:
        raise ConfigError(
            f"{workspace}/.dvc/config, or config.local beside it: {str(error).rstrip('.')}. Correct it"
        ) from None
    except UnicodeDecodeError:  # all else that DVC reads is read here before
        raise ConfigError(f"{workspace / '.dvcignore'}, or one below it, is not UTF-8. Save it so") from None
    except DvcException as error:
        raise ServiceError(f"DVC in {workspace}: {error}") from None


def _git(workspace: Path, *arguments: str) -> None:
    try:
        subprocess.run(["git", "-C", str(workspace), *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError("git is not installed; a workspace needs it. Install git and run again") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"git in {workspace}: {error.stderr.strip()}. Mend this and run again") from None


def _add_lines(file: Path, lines: tuple[str, ...]) -> None:
    """Add the lines that a file does not hold yet."""
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8. Save it so, or move it away, and run again") from None
    missing = [line for line in lines if line not in text.splitlines()]
    if missing:
        durable.write_text(
            file, "".join([text, "" if text.endswith("\n") or not text else "\n", *(f"{m}\n" for m in missing)])
        )
