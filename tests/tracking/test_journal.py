"""The journal loses nothing that was written whole, and believes nothing that was not."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import Busy, DataError
from rlhf.tracking.journal import FORMAT, Journal, alive, journals, read, read_from


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for step in range(3):
            journal.write("metrics", step=step, values={"loss": 0.1 + step}, time=1000.5 + step)
    return path


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read(path)]


def test_records_come_back_as_written(path: Path) -> None:
    assert list(read(path))[1] == {"kind": "metrics", "time": 1001.5, "step": 1, "values": {"loss": 1.1}}


def test_every_torn_tail_is_cut_and_writing_goes_on(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert steps(path) == [0, 1], end
        with Journal(path) as journal:
            journal.write("metrics", step=7, values={})
        assert steps(path) == [0, 1, 7], end


FIELDS = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key not in ("kind", "time", "crc", "format")), st.text(max_size=9)
)
LIVES = st.lists(st.tuples(st.lists(FIELDS, max_size=3), st.binary(max_size=40), st.integers(0, 60)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(LIVES)
def test_whatever_dies_how_often_every_record_stays(lives: list[tuple[list[dict[str, str]], bytes, int]]) -> None:
    """A life writes records and dies: with half of its next line on disk, or with whatever the disk then held."""
    with tempfile.TemporaryDirectory() as directory:
        path, expected = Path(directory) / "journal.jsonl", list[dict[str, Any]]()
        for records, rubbish, torn in lives:
            with Journal(path) as journal:
                for fields in records:
                    journal.write("note", time=1.5, **fields)
                    begins = {} if expected else {"format": FORMAT}
                    expected.append({"kind": "note", "time": 1.5, **begins, **fields})
                whole = path.stat().st_size
                journal.write("note", time=2.5, text="not acknowledged")
            os.truncate(path, min(path.stat().st_size - 1, whole + torn))
            if torn > 30:
                os.truncate(path, whole)
                path.write_bytes(path.read_bytes() + rubbish.replace(b"\n", b""))
            assert list(read(path)) == expected
        assert [record for record, _ in read_from(path, 0)] == expected if lives else not path.exists()


def test_a_tail_of_zeros_is_cut(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0" * 100)
    Journal(path).close()
    assert steps(path) == [0, 1, 2]
    assert path.read_bytes().endswith(b"}\n")


def test_damage_in_the_middle_names_file_and_line(path: Path) -> None:
    data = bytearray(path.read_bytes())
    second = data.index(b"\n") + 30
    for position in (second, second + 10):
        damaged = data.copy()
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path}: line 2 "):
            list(read(path))
        with pytest.raises(DataError, match="line 2 "):
            Journal(path)
        assert path.read_bytes() == damaged, "the damaged journal must be left as it is"


def test_reading_from_an_offset_goes_on_where_it_stopped(path: Path) -> None:
    offsets = [offset for _, offset in read_from(path, 0)]
    assert offsets[-1] == path.stat().st_size
    assert [record["step"] for record, _ in read_from(path, offsets[0])] == [1, 2]
    assert list(read_from(path, offsets[-1])) == []


def test_a_line_that_is_being_written_is_no_damage(path: Path) -> None:
    size = path.stat().st_size
    line = path.read_bytes().splitlines(keepends=True)[0]
    with open(path, "ab", buffering=0) as file:
        file.write(line[:20])
        assert list(read_from(path, size)) == []
        file.write(line[20:])
        assert [record["step"] for record, _ in read_from(path, size)] == [0]


def test_one_writer_at_a_time(path: Path) -> None:
    with Journal(path):
        assert alive(path)
        with pytest.raises(Busy, match=str(path)):
            Journal(path)
    assert not alive(path)


def test_what_a_killed_writer_wrote_is_there_and_its_lock_is_gone(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from rlhf.tracking.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.write('metrics', step=9, values={}); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert steps(path) == [0, 1, 2, 9]
    assert not alive(path)


@pytest.mark.parametrize(
    "module", ["tracking.journal", "tracking.lineage", "tracking.sender", "tracking.promotion", "gate.ledger"]
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, rlhf.{module}; print([m for m in ('mlflow', 'torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_line_that_only_half_fits_is_taken_back(path: Path) -> None:
    """The disk fills up in the middle of a line, and has room again for the next ones."""
    with Journal(path) as journal:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                journal.write("metrics", step=3, values={})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for step in (4, 5):
            journal.write("metrics", step=step, values={})
    assert steps(path) == [0, 1, 2, 4, 5]


def test_writes_reach_the_disk_once_a_second_and_at_close(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, clock = list[int](), [100.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("rlhf.tracking.journal.time.monotonic", lambda: clock[0])
    with Journal(path) as journal:
        for seconds, so_far in ((0.0, 0), (0.9, 0), (0.2, 1), (0.9, 1), (0.1, 2)):
            clock[0] += seconds
            journal.write("metrics", step=0, values={})
            assert len(synced) == so_far
    assert len(synced) == 3


def test_journals_come_by_the_age_of_the_stages_and_runs_come_last(tmp_path: Path) -> None:
    """A run points to stages, and what they were made from was made before."""
    names = {".work/b/journal.jsonl": 3, ".work/a/journal.jsonl": 5, ".work/c/journal.jsonl": 4}
    runs = {".rlhf/runs/2.jsonl": 1, ".rlhf/runs/1.jsonl": 2}
    for name, seconds in (names | runs).items():
        with Journal(tmp_path / name) as journal:
            journal.write("start")
        os.utime(tmp_path / name, (seconds, seconds))
    found = [path.relative_to(tmp_path).as_posix() for path in journals(tmp_path)]
    assert found == [*sorted(names, key=lambda name: names[name]), *sorted(runs)]
