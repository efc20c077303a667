"""What DVC and this program read of a workspace is there as files and directories: a pipe or a device is read for ever,
and a link may lead nowhere."""

import os
from pathlib import Path

from rlhf.config.reading import PARAMS
from rlhf.errors import ConfigError, DataError
from rlhf.pipeline.graph import CHAMPION, CODE, StageSpec

FILES = (
    "dvc.yaml",
    PARAMS,
    "dvc.lock",
    CHAMPION,
    CODE,
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/config.local",
    ".rlhf/run.lock",
    ".rlhf/servers/prefect",
    ".rlhf/servers/mlflow",
    ".rlhf/ledger.db",
)
DIRECTORIES = (".dvc", ".rlhf")


def require_workspace(workspace: Path) -> None:
    """Raises ConfigError for one of a workspace's own files or directories that is there and is something else."""
    for name in (*DIRECTORIES, *FILES):
        path = workspace / name
        wanted, good = ("directory", path.is_dir()) if name in DIRECTORIES else ("file", path.is_file())
        if os.path.lexists(path) and not good:
            mend = f"Move it away, or bring the {wanted} back"
            raise ConfigError(f"{path} {_kind(path)}, where a {wanted} belongs. {mend}")
    git = workspace / ".git"
    if git.is_file() and not git.read_bytes().startswith(b"gitdir: "):
        raise ConfigError(f"{git} is a file that leads to no repository. Move it away, and make one: git init")


def require_deps(workspace: Path, spec: StageSpec) -> None:
    """Raises DataError for a dep of a stage, or what lies in one, that is there and cannot be read to its end."""
    for dep in spec.deps:
        inside = (Path(place, name) for place, _, names in os.walk(workspace / dep) for name in names)
        for path in (workspace / dep, *inside):
            if os.path.lexists(path) and not (path.is_file() or path.is_dir()):
                raise DataError(refusal(path, _kind(path), spec))


def refusal(path: Path, problem: str, spec: StageSpec) -> str:
    """The sentence on an input that a stage cannot have."""
    return f"{path} {problem}; stage `{spec.name}` needs it. Check the path in params.yaml, or in dvc.yaml"


def _kind(path: Path) -> str:
    """What a path is that is not what it must be."""
    if not path.exists():
        return "is a link that leads nowhere"
    return "is a directory" if path.is_dir() else "is a file" if path.is_file() else "is a pipe or a device"
