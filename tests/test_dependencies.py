"""The lock: above every version with a known hole that concerns us, with a hash for every file, and verified."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

# The first release without the newest hole in what we use of it.
FLOORS = {
    "jinja2": "3.1.6",  # CVE-2025-27516: out of the sandbox, in which chat templates are rendered
    "mlflow": "3.11.0",  # CVE-2026-4137: directories that everybody may write
    "prefect": "3.6.28",  # CVE-2026-5366, -7723, -7724: argument injection, events without a password, webhooks
    "pyarrow": "23.0.1",  # CVE-2026-25087: use after free in the reader of IPC files
    "starlette": "0.49.1",  # CVE-2025-62727: one request that costs quadratic time
    "torch": "2.6.0",  # CVE-2025-32434: code runs although `weights_only`
    "transformers": "5.3.0",  # CVE-2026-4372: config.json runs code; -1839: so do checkpoints
}


def locked() -> dict[str, tuple[Version, list[str]]]:
    """Version and hashes of every locked package."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.lock", "torch.lock"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)==(\S+)(?: ;[^-]*)?((?: +--hash=sha256:[0-9a-f]{64})*) *", line) for line in lines]
    assert None not in found, lines[found.index(None)]
    return {canonicalize_name(line[1]): (Version(line[2]), line[3].split()) for line in found if line}


def test_the_lock_is_above_every_floor_and_has_hashes_for_all_but_torch() -> None:
    lock = locked()
    assert [name for name, floor in FLOORS.items() if lock[name][0] < Version(floor)] == []
    assert [name for name, (_, hashes) in lock.items() if not hashes] == ["torch"]
    assert len(lock) > 150


def test_no_version_that_pyproject_allows_is_below_a_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = locked()
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)][0]), (
            f"{requirement} is not locked"
        )
        (lowest,) = (Version(one.version) for one in requirement.specifier if one.operator == ">=")
        assert lowest >= Version(FLOORS.get(requirement.name, "0")), requirement


@pytest.mark.parametrize("altered", [False, True])
def test_the_set_up_refuses_a_wheel_that_was_altered(altered: bool, tmp_path: Path) -> None:
    flags = "--require-hashes --no-deps -r"
    assert f"{flags} requirements.lock" in (ROOT / "Makefile").read_text()
    wheel = tmp_path / "locked-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("locked.py", "")
        archive.writestr("locked-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: locked\nVersion: 1.0\n")
        archive.writestr("locked-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("locked-1.0.dist-info/RECORD", "locked.py,,\n")
    (tmp_path / "lock").write_text(f"locked==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    if altered:
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("locked.pth", "import os")
    place = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "site"), "-q"]
    command = [sys.executable, "-m", "pip", "install", *place, *flags.split(), str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("DO NOT MATCH THE HASHES" in done.stderr) == altered
    assert (tmp_path / "site/locked.py").exists() != altered
