"""Manifests name the file that is wrong; digests see every byte and nothing else."""

import shutil
from pathlib import Path

import pytest

from rlhf import durable
from rlhf.errors import DataError
from rlhf.manifest import MANIFEST, digest, outputs_below, write_manifest


@pytest.fixture
def output(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "deep").mkdir(parents=True)
    (directory / "weights.bin").write_bytes(bytes(1000))
    (directory / "deep" / "config.json").write_text("{}")
    write_manifest(directory)
    return directory


def test_a_flipped_byte_is_named(output: Path) -> None:
    content = bytearray((output / "weights.bin").read_bytes())
    content[500] ^= 1
    (output / "weights.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"model/weights\.bin is not the file"):
        digest(output)


def test_a_torn_file_is_named(output: Path) -> None:
    (output / "weights.bin").write_bytes(bytes(999))
    with pytest.raises(DataError, match=r"model/weights\.bin"):
        digest(output)


def test_a_missing_and_a_foreign_file_are_named(output: Path) -> None:
    (output / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt does not belong"):
        digest(output)
    (output / "deep" / "config.json").unlink()
    with pytest.raises(DataError, match=r"deep/config\.json is missing"):
        digest(output)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"files": 3}'])
def test_a_torn_manifest_is_named(output: Path, content: str) -> None:
    (output / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=MANIFEST):
        digest(output)


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        digest(tmp_path / "nowhere")


def test_equal_directories_have_equal_digests_wherever_they_are(output: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(output, tmp_path / "elsewhere" / "copy")
    assert digest(copy) == digest(output)


def test_a_directory_of_outputs_changes_with_any_of_them_and_not_with_what_is_half_written(output: Path) -> None:
    whole = digest(output.parent)
    durable.partial(output).mkdir()
    (output.parent / ".gitignore").write_text("/model\n")
    assert digest(output.parent) == whole
    (output.parent / "metrics.json").write_text("{}")
    assert digest(output.parent) != whole
    assert list(outputs_below(output.parent)) == [output]
