"""The wheel is whole: every module, the examples, and the default graph and parameters for `rlhf init`."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_all_that_a_workspace_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("rlhf_pipeline-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        for name in ("dvc.yaml", "params.yaml"):
            assert archive.read(f"rlhf/examples/small-world/{name}") == (ROOT / name).read_bytes()
        assert archive.read("flows/prefect.yaml") == (ROOT / "infra/prefect.yaml").read_bytes()
    packages = [path for name in ("rlhf", "flows", "tasks") for path in (ROOT / name).rglob("*")]
    files = [path for path in packages if path.is_file() and "__pycache__" not in path.parts]
    assert [str(path) for path in files if path.relative_to(ROOT).as_posix() not in held] == []


def test_the_lock_meets_the_declared_requirements() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = "".join((ROOT / name).read_text() for name in ("requirements.lock", "torch.lock"))
    found = re.findall(r"^([\w.-]+)==([^ \n]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)", text, re.MULTILINE)
    locked = {canonicalize_name(name): version for name, version, _ in found}
    assert [name for name, _, hashes in found if not hashes] == ["torch"], "whose build depends on the machine"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"], "hatchling"])
    assert [str(one) for one in needed if not one.specifier.contains(locked[canonicalize_name(one.name)])] == []
    assert [version for version in locked.values() if "+" in version] == []


def test_the_prefect_server_can_be_made() -> None:
    """A version of fastapi that Prefect does not stand breaks this import, and with it every server."""
    from prefect.server.api.server import create_app

    assert callable(create_app)
