"""What a workspace holds now: outputs with their receipts, the manifests that prove them, and DVC's digests of them."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rlhf import manifest
from rlhf.errors import DataError
from rlhf.manifest import MANIFEST, RECEIPT

MODELS = ("models/base", "models/sft", "models/reward/*", "models/referee", "models/policy/*")  # upstream first
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is several times as fast
_WRITING = 2.0  # seconds in which DVC, which writes its file in place, is done with it


@dataclass(frozen=True)
class Output:
    """A directory that a stage made: `digest` is the sha256 of its manifest, `receipt` what determined it."""

    directory: Path
    path: str  # relative to the workspace: "models/policy/dpo"
    digest: str
    receipt: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Stage key of the execution that made it."""
        return str(self.receipt["key"])

    @property
    def kind(self) -> str:
        """What it is registered as: base, sft, policy, referee, reward; reward-helpful where people judged by
        another criterion than overall."""
        kind, criterion = self.path.split("/")[1], self.directory.name
        return f"{kind}-{criterion}" if kind == "reward" and criterion != "overall" else kind

    @property
    def name(self) -> str:
        """What people call a model: its kind; a policy by its algorithm, dpo."""
        return self.directory.name if self.kind == "policy" else self.kind


def find_output(workspace: Path, path: str) -> Output | None:
    """The output at `path`; None when there is none, or it is not whole."""
    directory = workspace / path
    try:
        return Output(directory, path, manifest.sha256(directory / MANIFEST), read_receipt(directory))
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_receipt(directory: Path) -> dict[str, Any]:
    """The receipt of an output. Raises DataError for one that is damaged, FileNotFoundError where there is none."""
    try:
        receipt = json.loads((directory / RECEIPT).read_text(encoding="utf-8"))
        if not {"key", "stage"} <= receipt.keys():
            raise ValueError
    except (ValueError, AttributeError):
        raise DataError(f"{directory / RECEIPT} is damaged. Delete {directory} and run again: `rlhf run`") from None
    return receipt


def model_outputs(workspace: Path) -> Iterator[Output]:
    """Every model of the workspace, upstream first."""
    for pattern in MODELS:
        for directory in sorted(workspace.glob(pattern)):
            output = find_output(workspace, directory.relative_to(workspace).as_posix())
            if output and not directory.name.startswith("."):
                yield output


def verify(directory: Path, digest: str) -> None:
    """Hash every file of `directory` against its manifest, and the manifest against `digest`.

    Raises DataError naming the first file that is missing or differs.
    """
    if manifest.verified(directory) != digest:
        mend = f"Delete {directory} and fetch or make it again"
        raise DataError(f"{directory / MANIFEST} is not the one that was recorded. {mend}")


@dataclass(frozen=True)
class DvcLock:
    """What DVC committed last, from dvc.lock: the MD5 digests of inputs and outputs, and the parameters."""

    workspace: Path

    @cached_property
    def stages(self) -> Mapping[str, Mapping[str, Any]]:
        """Each stage as it ran last, by name; empty without dvc.lock. Raises DataError for one that is damaged."""
        path, deadline = self.workspace / "dvc.lock", time.monotonic() + _WRITING
        while path.exists():
            before = path.stat()
            stages = _stages(path)
            after = path.stat()
            if stages is not None and (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                return stages
            if time.monotonic() > deadline:
                raise damaged_lock(path)
            time.sleep(0.05)
        return {}

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """{path: md5} of every input and output."""
        entries = [entry for stage in self.stages.values() for entry in _entries(stage) if "md5" in entry]
        return {entry["path"]: entry["md5"] for entry in entries}

    def digest(self, path: str, sha256: str) -> str | None:
        """MD5 of what stands at `path`, if it is still what had the digest `sha256` when a stage read or made it."""
        return self.digests.get(path) if path in self.digests and stands(self.workspace, path, sha256) else None


def _stages(path: Path) -> Mapping[str, Mapping[str, Any]] | None:
    """The stages in a dvc.lock; None where it cannot be read, or ends within a line."""
    try:
        text = path.read_text(encoding="utf-8")
        stages = yaml.load(text, Loader=_Loader)["stages"]
        whole = text.endswith("\n") and all(
            stage.keys() <= {"cmd", "deps", "params", "outs"} and all("path" in entry for entry in _entries(stage))
            for stage in stages.values()
        )
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return stages if whole else None


def damaged_lock(path: Path) -> DataError:
    """What is to be said of a dvc.lock that cannot be read."""
    return DataError(
        f"{path} is damaged. Bring it back (`git checkout dvc.lock`), or delete it and run again: `rlhf run` takes "
        "then from the cache what is there"
    )


def _entries(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The inputs and outputs of a stage in dvc.lock."""
    return [*stage.get("deps", ()), *stage.get("outs", ())]


def stands(workspace: Path, path: str, sha256: str) -> bool:
    """Whether the file, or the output, at `path` is the one with this digest."""
    if (workspace / path).is_file():
        return manifest.sha256(workspace / path) == sha256
    output = find_output(workspace, path)
    return output is not None and output.digest == sha256


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
