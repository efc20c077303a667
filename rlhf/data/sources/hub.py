"""Records of a data set of the Hugging Face hub at a pinned commit, or of one that `datasets` saved to a directory."""

import json
from pathlib import Path

from rlhf.config.data import LimitsConfig
from rlhf.data.binary import binary_records
from rlhf.data.records import Entry
from rlhf.errors import DataError, DiskFull, Retryable, first_line

_TABLES = "data-*.arrow"  # what save_to_disk calls them, in their order


def hub_records(path: str, revision: str, split: str, limits: LimitsConfig) -> list[Entry]:
    """Rows of one split of a hub data set at a commit, of which `datasets` makes tables in its cache.

    Raises DataError, or Retryable when the hub is away.
    """
    try:
        tables = _fetched(path, revision, split)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path} at {revision}, split {split}: {first_line(error)}") from None
    except OSError as error:  # what the network and the hub say are OSErrors; a full disk is another matter
        if DiskFull.behind(error, Path.cwd()):
            raise
        if isinstance(error, PermissionError):
            raise DataError(f"{path} cannot be kept: {first_line(error)}. See to who may write there") from None
        raise Retryable(
            f"{path} cannot be read from the hub: {first_line(error)}. Or download it and give its directory"
        ) from None
    return _read(f"{path} at {revision}, split {split},", tables, limits)


def saved_records(path: Path, split: str | None, limits: LimitsConfig) -> list[Entry]:
    """Rows of the tables in a directory that `Dataset.save_to_disk` wrote. Raises DataError."""
    if (path / "dataset_dict.json").is_file():
        splits = _splits(path / "dataset_dict.json")
        if split not in splits:
            raise DataError(f"{path} has no split {split!r}; it has {', '.join(splits)}. Set `split` of the source")
        path = path / split
    tables = sorted(path.glob(_TABLES))
    if not tables:
        raise DataError(f"{path} is not a directory that `datasets` saved: it holds no {_TABLES}")
    return _read(str(path), tables, limits)


def _fetched(path: str, revision: str, split: str) -> list[Path]:
    """The tables that `datasets` made. Raises whatever was wrong."""
    import datasets

    try:
        data = datasets.load_dataset(path, revision=revision, split=split, keep_in_memory=False)
    except datasets.exceptions.DatasetGenerationError as error:  # says nothing but that it is one
        raise error.__cause__ or error from None
    return [Path(table["filename"]) for table in data.cache_files]


def _read(name: str, tables: list[Path], limits: LimitsConfig) -> list[Entry]:
    records = binary_records(tables, limits.row, limits.source)
    if not records:
        raise DataError(f"{name} holds no rows")
    return records


def _splits(file: Path) -> list[str]:
    """The names in dataset_dict.json that are directories beside it."""
    try:
        names = json.loads(file.read_bytes()[:100_000])["splits"]
        return [name for name in names if name in {entry.name for entry in file.parent.iterdir() if entry.is_dir()}]
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{file} is not what `datasets` wrote: it names no splits") from None
