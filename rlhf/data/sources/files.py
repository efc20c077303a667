"""Records of one local file: jsonl, json (an array), csv, parquet; the text formats may be gzipped.

Whatever makes a file unreadable is a DataError that names the file and the line. A record that can be read but makes no
sense is not this module's affair: it goes on, and quarantine names it.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rlhf.errors import DataError

Record = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".parquet")
_FIELD_LIMIT = 2**31 - 1  # characters; csv's own limit of 128 KiB is too small for long dialogues


def read_records(path: Path) -> list[Record]:
    """Every record of the file, in order. Raises DataError, also when there is none."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: the format is told by the ending, one of {', '.join(FORMATS)} (.gz may follow)")
    if suffix == ".parquet":
        records = _parquet(path)
    else:
        reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[suffix]
        records = list(reader(path, read_text(path)))
    if not records:
        raise DataError(f"{path} holds no rows. Fill it, or remove it from collect.sources in params.yaml")
    return records


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 with or without a byte-order mark. Raises DataError with the place of a bad byte."""
    data = _bytes(path)
    if not data:
        raise DataError(f"{path} is empty. Fill it, or remove it from collect.sources in params.yaml")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}, line {line}. "
            f"Convert it, for example: iconv -f latin1 -t utf-8"
        ) from None


def existing(path: Path) -> Path:
    """`path`, if it is there. Raises DataError, which names the nearest file beside it."""
    if path.exists():
        return path
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    raise DataError(
        f"{path} does not exist." + (f" Did you mean {path.parent / near[0]}?" if near else " Check the path")
    )


def _bytes(path: Path) -> bytes:
    existing(path)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _jsonl(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a line must hold an object, not {type(record).__name__}")
        yield record


def _json(path: Path, text: str) -> list[Record]:
    try:
        records = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). One object a line is a .jsonl file") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: a .json file must hold an array of objects, not {type(records).__name__}")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, entry {number}: an entry must be an object, not {type(record).__name__}")
    return records


def _csv(path: Path, text: str) -> Iterator[Record]:
    csv.field_size_limit(_FIELD_LIMIT)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(f"{path}, line 1: column `{twice[0]}` stands there twice")
        start = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(f"{path}, line {start}: {len(row)} fields where the header has {len(header)}")
            if row:
                yield dict(zip(header, row, strict=True))
            start = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}") from None


def _parquet(path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    existing(path)
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Fill it, or remove it from collect.sources in params.yaml")
    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a parquet file that can be read: {error}") from None
