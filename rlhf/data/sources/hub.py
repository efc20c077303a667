"""Records of a data set that `datasets` reads: of the Hugging Face hub at a pinned commit, or saved to a directory."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.data.sources.files import Record
from rlhf.errors import DataError, Retryable

if TYPE_CHECKING:
    from datasets import Dataset


def hub_records(path: str, revision: str, split: str) -> list[Record]:
    """Rows of one split of a hub data set at a commit. Raises DataError, or Retryable when the hub is away."""
    import datasets

    try:
        data = datasets.load_dataset(path, revision=revision, split=split)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path} at {revision}, split {split}: {_first_line(error)}") from None
    except OSError as error:  # what the network and the hub say are OSErrors; a full disk is another matter
        if error.errno == errno.ENOSPC:
            raise
        raise Retryable(
            f"{path} cannot be read from the hub: {_first_line(error)}. Or download it and give its directory"
        ) from None
    return list(data)


def saved_records(path: Path, split: str | None) -> list[Record]:
    """Rows of a directory that `Dataset.save_to_disk` wrote. Raises DataError."""
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a directory that `datasets` saved: {_first_line(error)}") from None
    if isinstance(data, datasets.DatasetDict):
        data = _split(data, path, split)
    if not len(data):
        raise DataError(f"{path} holds no rows")
    return list(data)


def _split(data: "dict[str, Dataset]", path: Path, split: str | None) -> "Dataset":
    if split not in data:
        raise DataError(f"{path} has no split {split!r}; it has {', '.join(data)}. Set `split` of the source")
    return data[split]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
