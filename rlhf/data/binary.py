"""Records of parquet and Arrow files. A few bytes can bring their readers to fall over or to fill the memory, so a
process with limits of its own reads a file first.

That process is this file run as a program. Only what it has read to the end, within the limits, is read here.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from rlhf.data import strict
from rlhf.data.records import Entry, Record, Unreadable, too_long
from rlhf.errors import DataError, Exit, first_line

CELL = 8  # bytes that a value counts for at least, so that values without bytes are counted
ROWS = 1000  # that are decoded at once
OWN_MEMORY = 2 << 30  # bytes of address space that Python and Arrow take for themselves
SECONDS = 300  # of a processor, in which any file within the limits is read
PLAIN = (
    types.is_boolean,
    types.is_integer,
    types.is_floating,
    types.is_decimal,
    types.is_temporal,
    types.is_string,
    types.is_large_string,
    types.is_binary,
    types.is_large_binary,
    types.is_null,
)


def binary_records(paths: Sequence[Path], row: int, whole: int) -> list[Entry]:
    """The records of .parquet files, or of .arrow files as streams, that belong together; in order, perhaps none.

    row: bytes that a record may have. whole: bytes that all may have. Raises DataError, which names the file.
    """
    _try(paths, row, whole)
    return [entry for entries in _read(paths, row, whole) for entry in entries]


def _try(paths: Sequence[Path], row: int, whole: int) -> None:
    """Have a process read the files. Raises DataError with what became of it."""
    command = [sys.executable, "-m", __name__, str(row), str(whole), *map(str, paths)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == Exit.DATA:
        raise DataError(done.stderr.strip())
    if done.returncode:
        raise DataError(
            f"{', '.join(map(str, paths))} cannot be read: it breaks its reader, or wants more memory or time than "
            f"{whole:,} bytes do. Write it again, or raise collect.limits.source in params.yaml"
        )


def require_file(path: Path) -> None:
    """Raises DataError for a directory, a pipe or a device."""
    if not path.is_file():
        hint = " but a directory. Name the file in it" if path.is_dir() else ""
        raise DataError(f"{path} is not a regular file{hint}")


def _read(paths: Sequence[Path], row: int, whole: int) -> Iterator[list[Entry]]:
    """The records, some at once. Raises DataError as soon as they come to more than `whole` bytes."""
    read = 0
    for path in paths:
        try:
            for batch in _batches(path):
                read += _size(batch)
                if read > whole:
                    raise DataError(
                        f"{path} expands to more than {whole:,} bytes. Part it, or raise collect.limits.source in "
                        "params.yaml"
                    )
                yield _entries(batch, row)
        except MemoryError:  # Arrow's is an ArrowException besides
            raise
        except (OSError, pa.ArrowException, ValueError, OverflowError, LookupError) as error:
            raise DataError(f"{path} is not {_kind(path)} that can be read: {first_line(error)[:200]}") from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of at most ROWS rows, valid and of plain types, dictionaries decoded."""
    for batch in _stored(path):
        for start in range(0, batch.num_rows, ROWS):
            rows = batch.slice(start, ROWS)
            plain = [column.dictionary_decode() if types.is_dictionary(column.type) else column for column in rows]
            rows = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
            rows.validate(full=True)
            yield rows


def _stored(path: Path) -> Iterator[pa.RecordBatch]:
    require_file(path)
    if not path.stat().st_size:
        raise DataError(f"{path} is empty. Fill it, or remove it from collect.sources in params.yaml")
    if _kind(path) == "parquet":
        with pq.ParquetFile(path) as file:
            _refuse_types(path, file.schema_arrow)
            yield from file.iter_batches(ROWS, use_threads=False)
    else:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
            _refuse_types(path, batches.schema)
            yield from batches


def _refuse_types(path: Path, schema: pa.Schema) -> None:
    """Raises DataError for a column whose values cannot be counted by their bytes."""
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if not _is_plain(kind):
            raise DataError(f"{path}: column `{field.name}` holds {str(kind)[:80]}, which is not read. Leave it out")
        if schema.names.count(field.name) > 1:
            raise DataError(f"{path}: column `{field.name}` appears twice")


def _is_plain(kind: Any) -> bool:
    if types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    return isinstance(kind, pa.JsonType) or any(is_one(kind) for is_one in PLAIN)


def _size(values: pa.RecordBatch | pa.Array) -> int:
    """Bytes of the values, each at least CELL; what a list or an object holds counts besides."""
    if isinstance(values, pa.RecordBatch):
        return sum(map(_size, values)) + CELL * len(values)
    if types.is_struct(values.type):
        return sum(map(_size, values.flatten())) + CELL * len(values)
    if types.is_nested(values.type):
        return _size(values.flatten()) + CELL * len(values)
    return max(values.nbytes, CELL * len(values))


def _entries(batch: pa.RecordBatch, limit: int) -> list[Entry]:
    """The records of a batch; one that is larger than the limit is found by halving."""
    if _size(batch) <= limit:
        return [_parsed(record, batch.schema) for record in batch.to_pylist()]
    if len(batch) == 1:
        return [too_long(limit)]
    half = len(batch) // 2
    return _entries(batch.slice(0, half), limit) + _entries(batch.slice(half), limit)


def _parsed(record: Record, schema: pa.Schema) -> Entry:
    """The record, in which `datasets` keeps as JSON what is not of one type in all of them."""
    try:
        return {field.name: _value(record[field.name], field.type) for field in schema}
    except strict.NotStrict as error:
        return Unreadable(str(error))


def _value(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return strict.loads(value)
    if types.is_struct(kind):
        return {field.name: _value(value[field.name], field.type) for field in kind}
    if types.is_nested(kind):
        return [_value(item, kind.value_type) for item in value]
    return value


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def main(paths: Sequence[Path], row: int, whole: int) -> Exit:
    """Read files to their end in a process with limits; for Exit.DATA the reason is on standard error."""
    limits = {
        resource.RLIMIT_AS: OWN_MEMORY + 2 * whole,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        with suppress(ValueError):  # a lower one holds already
            resource.setrlimit(name, (limit, limit))
    try:
        for _ in _read(paths, row, whole):
            pass
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return Exit.DATA
    except (MemoryError, RecursionError):
        return Exit.FAILED
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[3:]], int(sys.argv[1]), int(sys.argv[2])))
