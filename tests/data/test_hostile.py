"""What a file may hold to harm its reader: the row is quarantined or the file is refused, in bounded memory."""

import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.config.data import LimitsConfig
from rlhf.data.ids import add_ids
from rlhf.data.quarantine import check
from rlhf.data.records import Unreadable, too_long
from rlhf.data.report import characters
from rlhf.data.sources.files import read_records
from rlhf.data.sources.hub import hub_records, saved_records
from rlhf.data.tables import raw_columns
from rlhf.errors import DataError
from tests.canary import Canary
from tests.data.frames import LIMITS, gave

SMALL = LimitsConfig(row=1000, source=100_000)
GOOD = {"prompt": "Why?", "response": "Because."}
LONG = "longer than 1,000 bytes"
TWICE = Unreadable("a key stands twice in an object")
DEEP = "nested more than 100 deep"


def bad_rows(folder: Path, name: str, **source: Any) -> list[tuple[int, list[str]]]:
    """Places and reasons of the rows that quarantine takes; the others are GOOD."""
    from pydantic import TypeAdapter

    from rlhf.data.sources import ReadSource, read_source

    source = {"kind": "file", "table": "demonstrations", "columns": {}, "path": name} | source
    rows = read_source(TypeAdapter(ReadSource).validate_python(source), folder, SMALL).tables["demonstrations"]
    add_ids(rows)
    frame = pa.Table.from_pylist(rows, schema=pa.schema(raw_columns("demonstrations"))).to_pandas()
    kept, bad = check("demonstrations", frame, 20_000)
    assert set(kept["response"]) == {"Because."}
    return list(zip(bad["row"], bad["reasons"], strict=True))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"' + "x" * 2000 + '"', LONG),
        ('"' + "\u00fc" * 600 + '"', LONG),  # fewer characters than bytes
        ("[" * 200 + "]" * 200, DEEP),
        ('{"a":' * 120 + "1" + "}" * 120, DEEP),
        ('{"a": 1, "a": 2}', "a key stands twice in an object"),
        ('[{"b": {"a": 1, "a": 1}}]', "a key stands twice in an object"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1" + "0" * 308, "a whole number has more than 18 digits"),
        ("1e999", "a number is too large"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_row_of_json_that_is_hostile_is_quarantined_alone(tmp_path: Path, form: str, value: str, reason: str) -> None:
    good = json.dumps(GOOD)
    rows = [good, good[:-1] + f', "more": {value}}}', good]
    (tmp_path / f"rows.{form}").write_text("\n".join(rows) if form == "jsonl" else f"[{', '.join(rows)}]\n")
    assert bad_rows(tmp_path, f"rows.{form}") == [(1, [reason])]


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_nesting_beyond_what_python_reads_is_quarantined(tmp_path: Path, form: str) -> None:
    deep = f'{{"prompt": {"[" * 10_000}{"]" * 10_000}}}'
    rows = [json.dumps(GOOD), deep]
    (tmp_path / f"rows.{form}").write_text("\n".join(rows) if form == "jsonl" else f"[{', '.join(rows)}]")
    assert read_records(tmp_path / f"rows.{form}", LIMITS) == [GOOD, Unreadable(DEEP)]


def test_a_long_row_of_csv_is_quarantined_alone(tmp_path: Path) -> None:
    long = ["x" * 3000 + ",y", '"' + "x" * 1500 + '",y', '"' + "x" * 600 + '","' + "y" * 600 + '"', "x" + "," * 3000]
    text = "\n".join(["prompt,response", "Why?,Because.", *(f"{row}\nWhy?,Because." for row in long)])
    (tmp_path / "rows.csv").write_text(text)
    assert bad_rows(tmp_path, "rows.csv") == [(place, [LONG]) for place in (1, 3, 5, 7)]


def test_a_long_row_of_parquet_is_quarantined_alone(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": ""}] * 100
    rows = [GOOD | {"more": more} for more in ([], turns, [], [{"role": "user", "content": "x" * 1000}], [])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert bad_rows(tmp_path, "rows.parquet") == [(1, [LONG]), (3, [LONG])]


@pytest.mark.parametrize("kind", ["dialogues", "trees"])
def test_other_readers_hand_it_on(tmp_path: Path, kind: str) -> None:
    pair = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    record = pair if kind == "dialogues" else {"prompt": {"role": "prompter", "text": "Hi", "replies": []}}
    (tmp_path / "rows.jsonl").write_text(f'{json.dumps(record)}\n{{"a": NaN}}\n')
    tables = gave(tmp_path, kind=kind, path="rows.jsonl").tables
    found = {
        table: [(row["row"], row["unreadable"]) for row in rows if "unreadable" in row]
        for table, rows in tables.items()
    }
    word = [(1, "NaN is not JSON")]
    assert found == (
        {"comparisons": word, "demonstrations": word}
        if kind == "dialogues"
        else {"rankings": [], "demonstrations": [], "prompts": word}
    )


@pytest.mark.parametrize("source", [{"kind": "file", "table": "prompts", "columns": {}}, {"kind": "trees"}])
def test_a_source_of_which_no_row_can_be_read_says_why(tmp_path: Path, source: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": NaN}\n{"a": 1, "a": 2}\n{"a": NaN}\n')
    said = (
        r"rows\.jsonl: none of its 3 rows can be read: NaN is not JSON \(2, first in row 0\), .* \(1, first in row 1\)"
    )
    with pytest.raises(DataError, match=said):
        gave(tmp_path, path="rows.jsonl", **source)


PEAK = """
import resource, sys
from pathlib import Path
from rlhf.config.data import LimitsConfig
from rlhf.data.sources.files import read_records
from rlhf.errors import DataError
import pyarrow.parquet
limits = LimitsConfig(row=1_000_000, source=150_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        print(len(read_records(Path(name), limits)))
    except DataError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_row_of_a_hundred_megabytes_does_not_reach_the_memory(tmp_path: Path) -> None:
    good, turn = json.dumps(GOOD).encode() + b"\n", b'{"role": "user", "content": "x"},'
    keys = b",".join(b'"%d": 0' % key for key in range(100_000))
    with open(tmp_path / "rows.jsonl", "wb") as file:
        file.write(good + b'{"prompt": "' + b"x" * 100_000_000 + b'"}\n' + good)
        file.write(b'{"prompt": [' + turn * 1_000_000 + b"1]}\n" + good + b"{" + keys + b"}\n" + good)
    with open(tmp_path / "rows.csv", "wb") as file:
        file.write(b"prompt,response\n" + b"x" * 50_000_000 + b",y\n1,2\n")
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(160):
            file.write(b" " * 1_000_000)
    names = [tmp_path / name for name in ("rows.jsonl", "rows.csv", "bomb.jsonl.gz")]
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, names)], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    assert said[:2] == ["7", "2"]
    assert "bomb.jsonl.gz holds more than 150,000,000 bytes" in said[2]
    assert int(grown) < 40_000  # KiB


def ipc(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)


def test_a_small_file_that_expands_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    equal = pa.DictionaryArray.from_arrays(pa.array(bytes(10_000_000), pa.int8()), ["x" * 1000])
    pq.write_table(pa.table({"text": equal}), tmp_path / "rows.parquet", write_statistics=False)
    assert (tmp_path / "rows.parquet").stat().st_size < 50_000  # ten gigabytes
    with pytest.raises(DataError, match=r"rows\.parquet expands to more than 100,000 bytes"):
        read_records(tmp_path / "rows.parquet", SMALL)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (lambda: pa.ListArray.from_arrays([0, 2**31 - 1], pa.nulls(2**31 - 1)), "expands to more than"),
        (lambda: pa.nulls(10**9), "expands to more than"),
        (lambda: pa.RunEndEncodedArray.from_arrays([10**9], ["x"]), "holds run_end_encoded.*, which is not read"),
        (lambda: pa.array(["x"], pa.string_view()), "holds string_view, which is not read"),
    ],
)
def test_values_without_bytes_are_counted(tmp_path: Path, column: Callable[[], pa.Array], message: str) -> None:
    (tmp_path / "saved").mkdir()
    ipc(tmp_path / "saved/data-00000-of-00001.arrow", pa.record_batch({"prompt": column()}))
    with pytest.raises(DataError, match=message):
        saved_records(tmp_path / "saved", None, SMALL)


def test_offsets_beyond_the_values_are_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"text": pa.array(["x" * 64] * 100)})
    (tmp_path / "saved").mkdir()
    file = tmp_path / "saved/data-00000-of-00001.arrow"
    ipc(file, batch)
    content = bytearray(file.read_bytes())
    place = content.rindex((64).to_bytes(4, "little") + (128).to_bytes(4, "little"))
    content[place : place + 4] = (2**31 - 1).to_bytes(4, "little")  # an offset beyond the values
    file.write_bytes(content)
    with pytest.raises(DataError, match="is not arrow that can be read"):
        gave(tmp_path, kind="hub", path="saved", table="texts", columns={})


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.npy", "rows.pkl"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Canary(canary), protocol))
    with pytest.raises(DataError, match=name):
        gave(tmp_path, kind="file", path=name, table="texts", columns={})
    assert not canary.exists()


def test_of_a_saved_directory_nothing_but_its_tables_is_opened(tmp_path: Path) -> None:
    saved, canary = tmp_path / "saved", tmp_path / "canary"
    saved.mkdir()
    ipc(saved / "data-00000-of-00001.arrow", pa.record_batch({"prompt": ["Why?"]}))
    for name in ("state.json", "dataset_info.json", "saved.pkl", "data-00001-of-00002.pkl"):
        (saved / name).write_bytes(pickle.dumps(Canary(canary)))
    (saved / "saved.py").write_text(f"open({str(canary)!r}, 'w')")
    rows = gave(tmp_path, kind="hub", path="saved", table="prompts", columns={}).tables["prompts"]
    assert [row["prompt"][0]["content"] for row in rows] == ["Why?"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../saved", "saved", ".."]}')
    with pytest.raises(DataError, match=r"has no split '\.\.'; it has saved"):
        gave(tmp_path, kind="hub", path=".", split="..", table="prompts", columns={})
    assert not canary.exists()


def test_a_data_set_of_the_hub_is_read_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory stands for the hub: `datasets` makes its tables of either alike."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": "Why?", "tags": {"a": [1]}}, {"text": "x" * 2000, "tags": {}}, {"text": "So.", "tags": {"b": "c"}}]
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = partial(hub_records, str(tmp_path / "hub"), "0" * 40, "train")
    assert read(SMALL) == [rows[0], too_long(SMALL.row), rows[2]]
    with pytest.raises(DataError, match=r"train\.arrow expands to more than 2,000 bytes"):
        read(SMALL.model_copy(update={"source": 2000}))
    (tmp_path / "hub/train.jsonl").unlink()
    (tmp_path / "hub/train.csv").write_bytes(b"\xff,b\n1,2")
    with pytest.raises(DataError, match=r"hub at 0+, split train: 'utf-8' codec can't decode byte 0xff"):
        read(SMALL)


def test_json_in_a_table_is_strict(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    for texts, expected in (['{"a": 1}', None], [{"x": {"a": 1}}, {"x": None}]), (['{"a": 1, "a": 2}'], [TWICE]):
        ipc(tmp_path / "saved/data-00000-of-00001.arrow", pa.record_batch({"x": pa.array(texts, pa.json_())}))
        assert saved_records(tmp_path / "saved", None, SMALL) == expected
    ipc(tmp_path / "saved/data-00000-of-00001.arrow", pa.record_batch({"x": pa.array(["{"], pa.json_())}))
    with pytest.raises(DataError, match="is not arrow that can be read"):
        saved_records(tmp_path / "saved", None, SMALL)


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"rows\.jsonl is not a regular file"):
        read_records(tmp_path / "rows.jsonl", SMALL)


def test_a_torn_stream_of_gzip_is_named(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(json.dumps([GOOD] * 99).encode()))
    content[20:40] = bytes(20)
    (tmp_path / "rows.json.gz").write_bytes(content)
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_records(tmp_path / "rows.json.gz", SMALL)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_is_kept_as_it_was_written_and_what_does_not_show_is_counted(tmp_path: Path, end: str) -> None:
    """Twice the same file gives twice the same rows."""
    written = ["a\x1b[2Jb", "a\u202eb", "a\u200bb", "caf\u00e9", "cafe\u0301", "a\tb\r\nc", "\ufeff"]
    rows = [{"prompt": said, "response": "Yes."} for said in [*written, "a\x00b"]]
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(row) + end for row in rows).encode())
    read, again = (
        gave(tmp_path, kind="file", path="rows.jsonl", table="demonstrations", columns={}).tables["demonstrations"]
        for _ in range(2)
    )
    assert read == again
    assert [row["prompt"][0]["content"] for row in read] == [*written, "a\x00b"]
    assert [row["defects"] for row in read] == [[]] * len(written) + [["prompt holds a NUL"]]
    add_ids(read)
    frame = pa.Table.from_pylist(read, schema=pa.schema(raw_columns("demonstrations"))).to_pandas()
    kept, _ = check("demonstrations", frame, 20_000)
    assert characters(kept) == {"control": 1, "direction": 1, "invisible": 2}
    responses = kept.assign(response=["\u2066x", *kept["response"][1:]])
    assert characters(responses) == {"control": 1, "direction": 2, "invisible": 2}
    ranking = pd.DataFrame({"prompt": [read[3]["prompt"]], "responses": [["a", "\x9b"]]})
    assert characters(ranking) == {"control": 1, "direction": 0, "invisible": 0}


def test_a_message_that_quotes_a_file_steers_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\x1b]8;;evil\x07\u202e\n1\n")
    with pytest.raises(DataError) as caught:
        gave(tmp_path, kind="file", path="rows.csv", table="texts", columns={})
    assert "Its columns are a\ufffd]8;;evil\ufffd\ufffd" in str(caught.value)
