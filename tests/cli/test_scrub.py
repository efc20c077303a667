"""`rlhf scrub` reads everything, names what is damaged, and brings back what has a good copy."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from rlhf import durable
from rlhf.manifest import digest
from rlhf.pipeline import cache, versioning
from rlhf.pipeline.graph import load_graph
from rlhf.tracking.champions import FILES
from tests.pipeline.kept import REPLY, RUN, TENSORS, WORK, fill
from tests.pipeline.test_versioning import dvc

Rlhf = Callable[..., Result]
pytestmark = pytest.mark.integration


def spoil(file: Path) -> None:
    """Flip a bit as a disk does: the mode and the link stay."""
    mode, data = file.stat().st_mode, bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    with open(file, "r+b") as content:
        content.write(data)
    file.chmod(mode)


def object_of(workspace: Path, file: str) -> Path:
    """The object of DVC's cache that holds the bytes of a file."""
    data = (workspace / file).read_bytes()
    (found,) = (f for f in (workspace / ".dvc/cache/files").rglob("*") if f.is_file() and f.read_bytes() == data)
    return found


def with_remote(workspace: Path, store: Path) -> None:
    dvc(workspace, "remote", "add", "--default", "store", str(store)).check_returncode()
    dvc(workspace, "push", "--run-cache").check_returncode()


def kinds(result: Result) -> dict[str, tuple[int, int]]:
    found = json.loads(result.stdout)["kinds"]
    return {name: (one["count"], one["damaged"]) for name, one in found.items() if one["damaged"]}


@pytest.fixture
def full(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one of every kind of file."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fill(finished)
    (finished / "models/other").rename(finished / "other")  # the output of no stage
    return finished


def test_a_whole_workspace_is_whole_and_nothing_is_changed(rlhf: Rlhf, full: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in full.rglob("*") if path.is_file() and path.name != "run.lock"}
    result = rlhf("scrub", "-C", full)
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["whole"] * 9, result.stdout
    assert [str(path) for path, before in files.items() if path.stat().st_mtime_ns != before] == []


def test_every_kind_of_damage_is_named_and_mended_where_it_can_be(rlhf: Rlhf, full: Path) -> None:
    (policy,) = (path.name for path in (full / FILES).iterdir())
    small, shown = digest(full / "models/small"), object_of(full, "models/large/model.txt")
    damaged = {
        "cache objects": shown,
        "outputs": full / "models/small/model.txt",
        "checkpoints": full / WORK / "step-00000002/weights.safetensors",
        "kept tensors": full / TENSORS,
        "judge's replies": full / REPLY,
        "journals": full / RUN,
        "records": full / ".rlhf/ledger.db",
    }
    for file in damaged.values():
        spoil(file)
    only_told = rlhf("scrub", "--check", "--json", "-C", full)
    assert only_told.exit_code == 11
    assert {name: count for name, (_, count) in kinds(only_told).items()} == dict.fromkeys(damaged, 1)
    assert not (full / cache.AWAY).exists()

    result = rlhf("scrub", "-C", full)
    assert result.exit_code == 11, "a journal and the ledger have no other copy"
    for file in damaged.values():
        assert str(file) in result.stdout
    assert "Traceback" not in result.stdout
    assert digest(full / "models/small") == small, "restored from DVC's cache"
    assert cache.object_fault(shown) is None, "taken from the output"
    assert len(list((full / cache.AWAY).iterdir())) == len(damaged) - 1, "the ledger stays where it is"

    (full / ".rlhf/ledger.db").unlink()
    assert rlhf("scrub", "-C", full).exit_code == 0
    assert (full / FILES / policy).is_dir()


def test_a_member_that_is_lost_with_its_place_is_taken_from_the_output(rlhf: Rlhf, finished: Path) -> None:
    lost = object_of(finished, "models/large/model.txt")
    shutil.rmtree(lost.parent)
    result = rlhf("scrub", "-C", finished)
    assert (result.exit_code, cache.object_fault(lost)) == (0, None), result.stdout


def test_an_object_that_nothing_here_holds_comes_from_the_remote_or_is_made_anew(
    rlhf: Rlhf, finished: Path, tmp_path: Path
) -> None:
    with_remote(finished, tmp_path / "store")
    lost = object_of(finished, "models/large/model.txt")
    shutil.rmtree(finished / "models/large")
    spoil(lost)
    result = rlhf("scrub", "-C", finished)
    assert result.exit_code == 0, result.stdout
    assert "Brought back from a good copy" in result.stdout
    assert cache.object_fault(lost) is None

    spoil(lost)
    spoil(tmp_path / "store/files/md5" / lost.parent.name / lost.name)
    result = rlhf("scrub", "-C", finished)
    assert result.exit_code == 11
    assert "`rlhf run` makes it anew" in result.stdout
    assert not lost.exists(), "what came from the remote was verified, and is not kept"


def test_what_the_disk_does_not_give_back_is_damaged_and_ends_no_scrub(rlhf: Rlhf, full: Path) -> None:
    """Reading /proc/self/mem is an error of input and output, as a bad sector is."""
    lost = object_of(full, "models/large/model.txt")
    for file in (lost, full / RUN, full / "report.txt"):
        file.unlink()
        file.symlink_to("/proc/self/mem")
    result = rlhf("scrub", "-C", full)
    assert result.exit_code == 11, "the journal has no other copy"
    assert result.stdout.count("cannot be read: Input/output error") == 3, result.stdout
    assert cache.object_fault(lost) is None, "taken from the output"
    assert (full / "report.txt").is_file(), "restored from DVC's cache"


def test_what_a_remote_holds_half_is_never_used(finished: Path, tmp_path: Path) -> None:
    with_remote(finished, tmp_path / "store")
    names = {"models/large": "models/large/model.txt", "report.txt": "report.txt"}
    objects = {made: object_of(finished, file) for made, file in names.items()}
    shutil.rmtree(finished / ".dvc/cache/files")
    for made, file in objects.items():
        durable.remove(finished / made)
        remote = tmp_path / "store/files/md5" / file.parent.name / file.name
        spoil(remote)
        if made == "report.txt":
            os.truncate(remote, remote.stat().st_size // 2)
    dvc(finished, "pull", "--run-cache").check_returncode()
    damage = {made: versioning.drop_damaged(finished, spec) for spec in load_graph(finished) for made in spec.made}
    assert {made for made, what in damage.items() if what} == names.keys()
    for made, file in objects.items():
        assert str(finished / made) in damage[made] or str(file) in damage[made]
        assert not (finished / made).exists()
        assert not file.exists()
    assert digest(finished / "models/small")
    assert all(versioning.drop_damaged(finished, spec) is None for spec in load_graph(finished))
