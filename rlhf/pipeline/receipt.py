"""receipt.json: what determines an output, and nothing that differs between two equal runs."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.manifest import RECEIPT

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "numpy", "pandas", "pyarrow", "scipy", "vllm")


def stage_key(stage: str, code: str, params: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The name of one piece of work, in hex: the same stage, code, parameters and input bytes give the same key."""
    parts = {"stage": stage, "code": code, "params": params, "inputs": inputs}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_key(parts: Mapping[str, Any]) -> str:
    """The name, in hex, of what `parts` determine: JSON and arrays, of which every byte counts."""

    def stand_in(array: Any) -> list[Any]:
        return [str(array.dtype), array.shape, hashlib.sha256(array).hexdigest()]

    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=stand_in).encode()).hexdigest()


def read_receipt(directory: Path) -> dict[str, Any]:
    """The receipt of an output. Raises DataError for one that is damaged."""
    try:
        found = json.loads((directory / RECEIPT).read_text(encoding="utf-8"))
        if "key" not in found:
            raise ValueError
    except (ValueError, TypeError):
        raise DataError(
            f"{directory / RECEIPT} is damaged. Remove {directory} and run again: it is made anew"
        ) from None
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make numbers, as far as they are installed. None is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(workspace: Path) -> dict[str, Any] | None:
    """Commit of the workspace and whether it has changes that are not committed; None outside git and before
    the first commit."""
    command = ["git", "-C", str(workspace), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    oid, *changes = [line for line in done.stdout.splitlines() if line.startswith("# branch.oid") or line[0] != "#"]
    commit = oid.split()[-1]
    return None if commit == "(initial)" else {"commit": commit, "dirty": bool(changes)}


def git_user(workspace: Path) -> str | None:
    """The address by which git knows who works here; None where it was not told."""
    command = ["git", "-C", str(workspace), "config", "user.email"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None
