"""Files that cannot be read give one message that names the file and the place; files that can, give every record."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.records import too_long
from rlhf.data.sources.files import read_records
from rlhf.errors import DataError
from tests.data.frames import LIMITS

RECORDS = [{"prompt": "Why?\r\n\u2028 \u00fc", "response": 'He said "no", twice'}, {"prompt": "NA", "response": "nan"}]
CSV = 'prompt,response\r\n"Why?\r\n\u2028 \u00fc","He said ""no"", twice"\r\nNA,nan\r\n'
JSONL = "\ufeff" + "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSONL.encode()),
        ("rows.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("rows.json", json.dumps(RECORDS).encode()),
        ("rows.csv", CSV.encode("utf-8-sig")),
        ("rows.CSV", (CSV + "\r\n").encode()),
        ("rows.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
    ],
)
def test_every_format_gives_the_same_records(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_records(tmp_path / name, LIMITS) == RECORDS


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "rows.parquet")
    assert read_records(tmp_path / "rows.parquet", LIMITS) == RECORDS


@pytest.mark.parametrize("lines", [1, 5, 50])
def test_no_row_begins_within_a_field_that_is_too_long(lines: int, tmp_path: Path) -> None:
    """Lines of an answer that is passed over may look like rows."""
    inner = "".join(f'a prompt, an ""answer""\n{"x" * 30 * (line % 2)}' for line in range(lines))
    (tmp_path / "rows.csv").write_text(f'prompt,response\np,r\nlong,"{"y" * 90}\n{inner}"\nq,s\n')
    limits = LIMITS.model_copy(update={"row": 60})
    assert read_records(tmp_path / "rows.csv", limits) == [
        {"prompt": "p", "response": "r"},
        too_long(60),
        {"prompt": "q", "response": "s"},
    ]


def test_a_field_longer_than_csv_allows_by_default(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert len(read_records(tmp_path / "rows.csv", LIMITS)[0]["text"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl is empty"),
        ("rows.jsonl", b"\n \n", "rows.jsonl holds no rows"),
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', r"rows.jsonl, line 2: not JSON"),
        ("rows.jsonl", b'{"a": 1}\n\n2\n', r"rows.jsonl, line 3: this must be an object, not int"),
        ("rows.jsonl", json.dumps(RECORDS[0], indent=1).encode(), "line 1: a line must be one object.*Name it .json"),
        ("rows.jsonl", json.dumps(RECORDS).encode(), "line 1: a line must be one object.*Name it .json"),
        ("rows.jsonl", b'{"a": "ok"}\n{"a": "caf\xe9"}', r"not UTF-8: byte 0xe9 at offset 22, line 2.*iconv -f cp1252"),
        ("rows.csv", "text\ncafé\n".encode("utf-16"), "not UTF-8: byte 0xff at offset 0.*iconv -f utf-16"),
        ("rows.csv", b"prompt;response\na;b\n", "line 1: fields are separated by ';'. Save the file with commas"),
        ("rows.csv", b'"prompt";"response"\n"a";"b"\n', "line 1: fields are separated by ';'"),
        ("rows.csv", b"sep=,\na,b\n1,2\n", "line 1: sep=, is a note to Excel.*Take this line out"),
        ("rows.csv", b'a,b\r1,"2"\r', "rows.csv: lines end in CR alone. End them in LF"),
        ("rows.jsonl.gz", b"", "rows.jsonl.gz is empty"),
        ("rows.jsonl.gz", b"plain", "is not gzip. Take the .gz off its name"),
        ("rows.jsonl", gzip.compress(JSONL.encode(), mtime=0), r"is gzip. Name it rows\.jsonl\.gz"),
        ("rows.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "not a whole gzip file"),
        ("rows.json", b'{"a": 1}', "must hold an array of objects"),
        ("rows.json", b'[{"a": 1} ', "after entry 0: not JSON"),
        ("rows.json", b'[{"a": 1}, 2]', "entry 1: an entry must be an object"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', "One object a line is a .jsonl file"),
        ("rows.csv", b"", "rows.csv is empty"),
        ("rows.csv", b"a,b\n", "rows.csv holds no rows"),
        ("rows.csv", b"a,b\n1,2\n3\n", "rows.csv, line 3: 1 fields where the header has 2"),
        ("rows.csv", b'a,b\n"1\n2",2\n3,4,5\n', "rows.csv, line 4: 3 fields where the header has 2"),
        ("rows.csv", b'a,b\n1,"2\n3,4\n', r"rows.csv, line \d: unexpected end of data"),
        ("rows.csv", b'a,b\n1,"2"x\n', "rows.csv, line 2: .* expected after"),
        ("rows.csv", b"a,a\n1,2\n", "rows.csv, line 1: column `a` appears twice"),
        ("rows.csv", b"a,b\n1,\xff\n", "not UTF-8: byte 0xff at offset 6, line 2"),
        ("rows.parquet", b"", "rows.parquet is empty"),
        ("rows.parquet", b"not parquet at all", "is not parquet that can be read"),
        ("rows.xlsx", b"x", r"the format is told by the ending, one of \.jsonl, \.json, \.csv, \.parquet"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_records(tmp_path / name, LIMITS)


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "comparisons.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"comparison\.csv does not exist\. Did you mean .*comparisons\.csv"):
        read_records(tmp_path / "comparison.csv", LIMITS)
    with pytest.raises(DataError, match=r"else\.parquet does not exist\. Check the path"):
        read_records(tmp_path / "nowhere" / "else.parquet", LIMITS)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match=r"is not a regular file but a directory\. Name the file in it"):
        read_records(tmp_path / "rows.jsonl", LIMITS)
