"""A disk that takes no more: refused before the work where that can be known, else one sentence, and nothing lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from torch import nn

from rlhf.errors import DiskFull, Exit
from rlhf.gate.ledger import Ledger
from rlhf.manifest import digest
from rlhf.pipeline import fingerprint
from rlhf.tracking.journal import Journal, read
from rlhf.tracking.sender import sync
from rlhf.training.checkpoint import Checkpoints
from tests.conftest import ROOT
from tests.pipeline.test_stage import left_over, rewrite

pytestmark = pytest.mark.integration
MEGABYTE = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes and 300 files."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=300", "tmpfs", str(place)])
    if mounting.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small(disk: Path, new_workspace: Path) -> Path:
    """A toy workspace on the small disk, without git and DVC, whose first stage has run."""
    leave = shutil.ignore_patterns(".git", ".dvc")
    workspace = shutil.copytree(new_workspace, disk / "workspace", ignore=leave)
    assert run_rows(workspace).returncode == 0
    return workspace


def run_rows(workspace: Path, **limits: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "rows.py"]
    return subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=60, preexec_fn=limit
    )


FILLING = {
    "bytes of an output": ("(out / 'x').write_bytes(bytes(8_000_000))", "Make room"),
    "safetensors": (
        "import numpy; from safetensors.numpy import save_file\n"
        "save_file({'x': numpy.zeros(1_000_000)}, out / 'x.safetensors')",
        "Make room",
    ),
    "the journal": ("for i in range(10**6): stage.log(i, {'loss': 0.1})", "Make room"),
    "inodes": ("for i in range(1000): (out / str(i)).touch()", " of 300 inodes on"),
}


@pytest.mark.parametrize("what", FILLING)
def test_a_disk_that_fills_ends_in_one_sentence_and_the_next_run_goes_on(small: Path, what: str) -> None:
    before, program = digest(small / "data/rows"), (small / "rows.py").read_text()
    body, says = FILLING[what]
    rewrite(small, "rows", f"out = stage.output('data/rows')\n{body}\nraise AssertionError('it must not come here')")
    done = run_rows(small)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.DISK_FULL, 1), done.stderr
    assert says in done.stderr
    assert "earlier outputs are untouched" in done.stderr
    assert digest(small / "data/rows") == before
    assert left_over(small) == []
    for journal in small.glob(".work/*/journal.jsonl"):
        steps = [record["step"] for record in read(journal) if record["kind"] == "metrics"]
        assert steps == list(range(len(steps))), "no record that was written whole is lost"
        if what == "the journal" and steps:
            journal.unlink()  # that is making room
    (small / "rows.py").write_text(program)
    fingerprint.refresh(small)
    again = run_rows(small)
    assert again.returncode == 0, again.stderr
    assert digest(small / "data/rows") == before


def test_a_disk_that_cannot_be_written(small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small.parent)], check=True)
    done = run_rows(small)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.DISK_FULL, 1), done.stderr
    assert "read-only" in done.stderr


def test_a_limit_on_the_size_of_files(workspace: Path) -> None:
    rewrite(workspace, "rows", "(stage.output('data/rows') / 'x').write_bytes(bytes(2_000_000))")
    done = run_rows(workspace, RLIMIT_FSIZE=MEGABYTE)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.DISK_FULL, 1), done.stderr
    assert "ulimit -f" in done.stderr
    assert left_over(workspace) == []


def test_a_quota_is_told(tmp_path: Path) -> None:
    full = DiskFull.behind(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "x")), tmp_path)
    assert "quota" in str(full)
    assert DiskFull.behind(OSError(errno.EIO, "broken"), tmp_path) is None


def test_a_stage_whose_outputs_will_not_fit_is_refused_before_it_begins(small: Path) -> None:
    lock = {"stages": {"rows": {"cmd": "", "outs": [{"path": "data/rows", "md5": "x", "size": 4 * MEGABYTE}]}}}
    (small / "dvc.lock").write_text(yaml.safe_dump(lock))
    rewrite(small, "rows", "open('begun', 'w')")
    done = run_rows(small)
    assert done.returncode == Exit.DISK_FULL
    assert "will take about 5 MB" in done.stderr
    assert not (small / "begun").exists()


def test_a_training_whose_checkpoints_will_not_fit_is_refused(disk: Path) -> None:
    fits, not_fits = nn.Linear(100, 100), nn.Linear(400, 400)
    Checkpoints(disk / "work").require_room(fits)
    with pytest.raises(DiskFull, match="checkpoints of this model take up to 6 MB"):
        Checkpoints(disk / "work").require_room(not_fits)


def test_the_journal_and_the_ledger_keep_what_they_had(disk: Path) -> None:
    book, count = Ledger(disk / "ledger.db"), 0
    book.promote("key-a", "aa", "policy/1", "report-a", 0)
    with Journal(disk / "journal.jsonl") as journal:
        filling = disk / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(disk).free - 5000))
        with suppress(OSError):
            for count in range(10**6):
                journal.write("metrics", step=count, values={"text": "x" * 700})
        assert count < 10
        with pytest.raises(DiskFull, match=r"ledger\.db"):
            book.promote("key-b" * 2000, "bb", "policy/2", "report-b", 1)
        filling.unlink()
        journal.write("metrics", step=count, values={})
    assert [record["step"] for record in read(disk / "journal.jsonl")] == list(range(count + 1))
    assert [one.policy for one in book.history()] == ["aa"]
    assert book.promote("key-b", "bb", "policy/2", "report-b", 1).generation == 2


def test_the_sender_says_that_the_disk_is_full_and_goes_on_later(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with Journal(disk / ".rlhf/runs/run-1.jsonl") as journal:
        journal.write("start", run_id="run-1", params={"seed": 0}, git=None)
        journal.write("end", status="completed")
    (disk / ".rlhf/sender.lock").touch()
    (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free))
    assert sync(disk) == Exit.DISK_FULL
    said = capsys.readouterr().err
    assert "no space is left" in said
    assert len(said.splitlines()) == 1
    (disk / "filling").unlink()
    assert sync(disk) == Exit.DONE
