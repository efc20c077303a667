"""receipt.json: what determines an output. What may differ between equal outputs is in the journal alone."""

import hashlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlhf.manifest import json_digest
from rlhf.pipeline.fingerprint import ROOT
from rlhf.pipeline.graph import CHAMPION, CODE

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "numpy", "pandas", "pyarrow", "scipy", "vllm")
WRITTEN = ("dvc.lock", CHAMPION, CODE)  # by a run, of files that are committed
RUN = "RLHF_RUN"  # environment: id of the pipeline run that a stage belongs to


def make_receipt(stage: str, code: str, params: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """The receipt of one piece of work. Its `key`, in hex, names it: the same stage, code, parameters and input bytes
    give the same key."""
    parts = {"stage": stage, "code": code, "params": params, "inputs": inputs}
    return parts | {"key": json_digest(parts), "seed": params.get("seed"), "versions": versions()}


def circumstances(workspace: Path) -> dict[str, Any]:
    """Who runs what where: what may differ between equal outputs."""
    return {
        "git": git_state(workspace),
        "program": program(),
        "user": git_user(workspace),
        "host": socket.gethostname(),
        "pipeline_run": os.environ.get(RUN),
        "machine": _machine(),
    }


def content_key(parts: Mapping[str, Any]) -> str:
    """The name, in hex, of what `parts` determine: JSON and arrays, of which every byte counts."""

    def stand_in(array: Any) -> list[Any]:
        return [str(array.dtype), array.shape, hashlib.sha256(array).hexdigest()]

    return json_digest(parts, stand_in)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make numbers, as far as they are installed. None is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def program() -> dict[str, Any]:
    """Version of this program and, of a checkout, its commit: a workspace may be a repository of its own."""
    found = {"git": git_state(ROOT) if (ROOT / ".git").exists() else None}
    try:
        return {"version": version("rlhf-pipeline"), **found}
    except PackageNotFoundError:  # run from its sources
        return {"version": "not installed", **found}


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of a repository and whether it has changes, or programs, that are not committed, but of what a run itself
    writes; None outside git and before the first commit."""
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ":/"]
    try:
        said = _git(directory, *status, *(f":(exclude){name}" for name in WRITTEN))
        programs = _git(directory, "ls-files", "--others", "--exclude-standard", "--", ":/*.py")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    oid, *changes = [line for line in said if line.startswith("# branch.oid") or line[0] != "#"]
    commit = oid.split()[-1]
    return None if commit == "(initial)" else {"commit": commit, "dirty": bool(changes or programs)}


def _git(directory: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def git_user(workspace: Path) -> str | None:
    """The address by which git knows who works here; None where it was not told."""
    command = ["git", "-C", str(workspace), "config", "user.email"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None


def _machine() -> str | None:
    """How models compute here, in a stage that has loaded what computes them."""
    if "torch" not in sys.modules:
        return None
    from rlhf.models.machine import choices

    return choices()
