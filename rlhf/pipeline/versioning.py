"""DVC behind a narrow interface: the only importer of dvc. Everything here runs in this process."""

import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable, manifest
from rlhf.errors import Busy, ConfigError, DataError, ServiceError
from rlhf.garbage import loading
from rlhf.pipeline.graph import StageSpec, load_graph
from rlhf.pipeline.process import is_alive

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

    The processes of a run that was killed take a moment to follow it. Raises Busy when others go on.
    """
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
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if text:
        locks = json.loads(text)
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

    Raises DataError when what came is damaged; it is removed then, and the next run makes it anew.
    """
    with _repository(workspace) as repo:
        fetched = repo.pull(run_cache=True, remote=remote).get("fetched", 0)
    damage = [found for spec in load_graph(workspace) if (found := drop_damaged(workspace, spec))]
    if damage:
        raise DataError("; ".join(damage))
    return fetched


def drop_damaged(workspace: Path, spec: StageSpec) -> str | None:
    """Verify a stage's outputs; remove damaged ones, with what is damaged in DVC's cache of them.

    Returns what was wrong, or None. After a removal the next run restores the stage from a remote or makes it anew.
    """
    try:
        for path in spec.outs:
            if (workspace / path).exists():
                manifest.digest(workspace / path)
    except DataError as error:
        with _repository(workspace) as repo:
            for out in (out for stage in repo.index.stages if stage.name == spec.name for out in stage.outs):
                _scrub(repo, out)
        for path in spec.made:
            durable.remove(workspace / path)
        return str(error)
    return None


def _scrub(repo: "Repo", out: "object") -> None:
    """Remove every object of an output from the cache whose bytes are not those of its name."""
    cache, entry = repo.cache.local, out.hash_info  # type: ignore[attr-defined]
    tree = out.get_obj() if entry.isdir else None  # type: ignore[attr-defined]
    for oid in {entry.value, *(value.value for _, _, value in (tree or ()))}:
        file = Path(cache.oid_to_path(oid))
        if file.exists() and hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != oid.partition(".")[0]:
            file.unlink()


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
