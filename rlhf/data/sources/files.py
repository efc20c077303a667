"""Records of one local file: jsonl, json (an array), csv, parquet; the text formats may be gzipped.

Nothing about a file is believed. It is read to its end before it is read for its records, so that one that is torn, is
not UTF-8 or expands to more than the limit gets no further: a DataError names the file and the line. A record that is
too long, or in JSON beyond the standard, leaves a word in its place, and quarantine has it. One that can be read but
makes no sense is not this module's affair: it goes on, and quarantine names it.
"""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, cast

from rlhf.config.data import LimitsConfig
from rlhf.data import strict
from rlhf.data.binary import binary_records, require_file
from rlhf.data.records import Entry, Unreadable, too_long
from rlhf.data.values import unpacked
from rlhf.errors import DataError

FORMATS = (".jsonl", ".json", ".csv", ".parquet")
_GZIP = b"\x1f\x8b"  # that such a file begins with, and that is not UTF-8
_PIECE = 1 << 20  # bytes that are held at once of a file whose end is sought
_SEPARATED = re.compile(r"[\w ]+([;\t|])[\w ]+(?:\1[\w ]+)*")  # a header as programs write it that use no commas
_NOTE = re.compile(r'"?sep=.?"?')  # a first line that is meant for Excel
_SPACE = re.compile(r"[ \t\r\n]*")
_BRACKET = re.compile(r'[^"\[\]{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)  # the next one


def read_records(path: Path, limits: LimitsConfig) -> list[Entry]:
    """Every record of the file, in order. Raises DataError, also when there is none."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS or path.name.lower().endswith(".parquet.gz"):
        raise DataError(
            f"{path}: the format is told by the ending, one of {', '.join(FORMATS)} (.gz may follow a text format)"
        )
    if suffix == ".parquet":
        records = binary_records([existing(path)], limits.row, limits.source)
    else:
        reader: Callable[[Path, IO[bytes], int], Iterator[Entry]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[
            suffix
        ]
        with _proven(path, limits.source) as file:
            records = list(reader(path, file, limits.row))
    if not records:
        raise DataError(f"{path} holds no rows. Fill it, or remove it from collect.sources in params.yaml")
    return records


def read_text(path: Path, limits: LimitsConfig) -> str:
    """The text of a file, UTF-8 with or without a byte-order mark. Raises DataError with the place of a bad byte."""
    with _proven(path, limits.source) as file:
        return file.read().decode()


def existing(path: Path) -> Path:
    """`path`, if it is there. Raises DataError, which names the nearest file beside it."""
    if path.exists():
        return path
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    raise DataError(
        f"{path} does not exist." + (f" Did you mean {path.parent / near[0]}?" if near else " Check the path")
    )


@contextmanager
def _proven(path: Path, limit: int) -> Iterator[IO[bytes]]:
    """An open file of UTF-8 that was read to its end, after its byte-order mark. Raises DataError for any other."""
    require_file(existing(path))
    try:
        with _opened(path) as file:
            _prove(path, file, limit)
            file.seek(0)
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(0)
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _opened(path: Path) -> IO[bytes]:
    """The file, expanded when it is gzip. Raises DataError when its name says another thing than its first bytes."""
    with open(path, "rb") as file:
        start = file.read(len(_GZIP))
    named = path.suffix == ".gz"
    if start and named != (start == _GZIP):
        said = "is not gzip. Take the .gz off its name" if named else f"is gzip. Name it {path.name}.gz"
        raise DataError(f"{path} {said}")
    return cast(IO[bytes], gzip.open(path)) if named else open(path, "rb")


def _prove(path: Path, file: IO[bytes], limit: int) -> None:
    decoder, size, lines = codecs.getincrementaldecoder("utf-8")(), 0, 1
    utf_16 = False
    while True:
        piece = file.read(_PIECE)
        utf_16 |= not size and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        size += len(piece)
        if size > limit:
            raise DataError(
                f"{path} holds more than {limit:,} bytes. Part it, or raise collect.limits.source in params.yaml"
            )
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            place = size - len(error.object) + error.start
            line = lines + error.object.count(b"\n", 0, error.start)
            raise DataError(
                f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {place}, line {line}. "
                f"Convert it from what it is, for example: iconv -f {'utf-16' if utf_16 else 'cp1252'} -t utf-8"
            ) from None
        if not piece:
            break
        lines += piece.count(b"\n")
    if not size:
        raise DataError(f"{path} is empty. Fill it, or remove it from collect.sources in params.yaml")


class _TooLong(Exception):
    """A line that is not read."""


class _Lines:
    """The lines of a file, with their ends; one of more than `limit` bytes is passed over and raises _TooLong."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit
        self.number = 0  # of the last one, from 1
        self.quotes = 0  # in the lines since somebody set it to 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._limit + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.quotes += line.count(b'"')
        if len(line) <= self._limit or line.endswith(b"\n"):
            return line.decode()
        while line and not line.endswith(b"\n"):
            line = self._file.readline(_PIECE)
            self.quotes += line.count(b'"')
        raise _TooLong

    def leave_quotes(self) -> None:
        """Pass over the rest of a record of which a quoted field goes on in the next line."""
        while self.quotes % 2:
            try:
                next(self)
            except StopIteration:
                return
            except _TooLong:
                continue


def _jsonl(path: Path, file: IO[bytes], limit: int) -> Iterator[Entry]:
    lines = _Lines(file, limit)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except _TooLong:
            yield too_long(limit)
            continue
        if (said := line.strip()) == "{" or said.startswith("["):
            raise DataError(
                f"{path}, line {lines.number}: a line must be one object. Is this JSON in place of JSON lines? Name it "
                ".json, with all objects in one array"
            )
        if said:
            yield _record(f"{path}, line {lines.number}", line)


def _json(path: Path, file: IO[bytes], limit: int) -> Iterator[Entry]:
    text = file.read().decode()
    place = _after_space(text, 0)
    if text[place : place + 1] != "[":
        raise DataError(f"{path}: a .json file must hold an array of objects. One object a line is a .jsonl file")
    place = _after_space(text, place + 1)
    if text[place : place + 1] == "]":
        return
    number = 0
    while True:
        if text[place : place + 1] != "{":
            raise DataError(f"{path}, entry {number}: an entry must be an object")
        end = _end(text, place)
        if end is None:
            raise DataError(f"{path}, entry {number}: not JSON (it does not end). One object a line is a .jsonl file")
        fits = end - place <= limit and len((entry := text[place:end]).encode()) <= limit
        yield _record(f"{path}, entry {number}", entry) if fits else too_long(limit)
        number, place = number + 1, _after_space(text, end)
        if text[place : place + 1] != ",":
            break
        place = _after_space(text, place + 1)
    if text[place : place + 1] != "]" or _after_space(text, place + 1) != len(text):
        raise DataError(f"{path}, after entry {number - 1}: not JSON. One object a line is a .jsonl file")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # it matches nothing, too
    return found.end()


def _end(text: str, place: int) -> int | None:
    """Where the object that opens at `place` has been closed; None when it is not."""
    depth = 0
    while bracket := _BRACKET.match(text, place):
        place = bracket.end()
        depth += 1 if bracket[1] in "[{" else -1
        if not depth:
            return place
    return None


def _record(where: str, text: str) -> Entry:
    try:
        record = strict.loads(text)
    except strict.NotStrict as error:
        return Unreadable(str(error))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: this must be an object, not {type(record).__name__}")
    return record


def _csv(path: Path, file: IO[bytes], limit: int) -> Iterator[Entry]:
    csv.field_size_limit(limit)
    _refuse_dialects(path, file, limit)
    lines = _Lines(file, limit)
    rows = csv.reader(lines, strict=True)
    header = _header(path, rows)
    while True:
        start, lines.quotes = lines.number + 1, 0
        try:
            row = next(rows)
        except StopIteration:
            return
        except (_TooLong, csv.Error) as error:
            if isinstance(error, csv.Error) and "field limit" not in str(error):
                raise DataError(f"{path}, line {lines.number}: {error}") from None
            lines.leave_quotes()
            yield too_long(limit)
            continue
        if sum(map(len, row)) > limit:
            yield too_long(limit)
        elif row and len(row) != len(header):
            raise DataError(f"{path}, line {start}: {len(row)} fields where the header has {len(header)}")
        elif row:
            yield dict(zip(header, map(unpacked, row), strict=True))


def _refuse_dialects(path: Path, file: IO[bytes], limit: int) -> None:
    """Raises DataError for a first line as programs write it that mean another csv."""
    start = file.tell()
    line = file.readline(limit + 1).decode(errors="ignore")
    file.seek(start)
    said = line.strip()
    if other := _SEPARATED.fullmatch(said.replace('"', "")):
        raise DataError(f"{path}, line 1: fields are separated by {other[1]!r}. Save the file with commas between them")
    if _NOTE.fullmatch(said):
        raise DataError(f"{path}, line 1: {said} is a note to Excel and not the header. Take this line out")
    if "\r" in said and not line.endswith("\n"):
        raise DataError(f"{path}: lines end in CR alone. End them in LF, for example: tr '\\r' '\\n'")


def _header(path: Path, rows: Iterator[list[str]]) -> list[str]:
    try:
        names = next(rows, [])
    except (_TooLong, csv.Error) as error:
        raise DataError(f"{path}, line 1: {str(error) or 'longer than collect.limits.row of params.yaml'}") from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}, line 1: column `{twice[0]}` appears twice")
    return names
