"""A write that fails leaves what was there, and nothing beside it."""

import os
from pathlib import Path

import pytest

from rlhf import durable


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_write_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    durable.write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        durable.write_text(target, "x" * 100_000 + "\ud800")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("name", ["file.txt", "files"])
def test_bytes_are_on_the_disk_before_they_have_their_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name itself, in its directory, last."""
    did, target = list[str](), tmp_path / name
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        did.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path.parent).name}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: did.append("rename") or replace(*paths))
    if name == "file.txt":
        durable.write_text(target, "text")
        contents = [f"sync {durable.PARTIAL}file.txt"]
    else:
        made = durable.partial(target)
        made.mkdir()
        (made / "one.txt").write_text("1")
        durable.publish(made, target)
        contents = ["sync one.txt", f"sync {durable.PARTIAL}files"]
    assert did == [*contents, "rename", f"sync {tmp_path.name}"]


def test_json_is_sorted_and_refuses_what_json_does_not_have(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        durable.write_json(tmp_path / "a.json", {"b": float("nan")})
    assert names(tmp_path) == ["a.json"]


def test_publishing_replaces_a_directory_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    (target / "old.txt").chmod(0o444)  # as DVC leaves what is linked to its cache
    temporary = durable.partial(target)
    temporary.mkdir()
    (temporary / "new.txt").write_text("new")
    durable.publish(temporary, target)
    assert names(tmp_path) == ["out"]
    assert names(target) == ["new.txt"]


def test_publishing_removes_what_a_crash_between_its_renames_left(tmp_path: Path) -> None:
    (tmp_path / f"{durable.PARTIAL}old-out").mkdir()
    durable.partial(tmp_path / "out").mkdir()
    durable.publish(durable.partial(tmp_path / "out"), tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    assert durable.partial(tmp_path / "curves.csv").suffix == ".csv"
    assert durable.partial(tmp_path / "curves.csv").parent == tmp_path
