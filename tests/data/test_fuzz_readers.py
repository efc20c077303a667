"""Valid files of every format, broken at random: each gives rows, rows for quarantine, or an error that names it.

RLHF_FUZZ=5000 tries so many files of each format; without it, as many as a test may take.
"""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rlhf.config.data import LimitsConfig
from rlhf.data import binary
from rlhf.data.ids import add_ids
from rlhf.data.quarantine import check
from rlhf.data.sources import ReadSource, read_source
from rlhf.data.tables import raw_columns
from rlhf.errors import UserError

EXAMPLES = int(os.environ.get("RLHF_FUZZ", "0"))
LIMITS = LimitsConfig(row=2000, source=200_000)
SAID = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because\u200b."}]
PAIRS = [
    {"prompt": SAID[:1], "chosen": f"{n} é", "rejected": "No.", "tie": False, "strength": 1.5 * n, "annotator": "ann"}
    for n in range(1, 9)
]
FLAT = [{"prompt": "Why?", "chosen": f"Yes, {n}", "rejected": 'No, "no"', "tie": "false"} for n in range(8)]
DIALOGUE = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
TREE = {"message_id": "p", "parent_id": None, "role": "prompter", "text": "Hi", "rank": None}
REPLIES = [{"message_id": f"a{n}", "parent_id": "p", "role": "assistant", "text": f"{n}", "rank": n} for n in range(3)]


def lines(records: list[dict[str, object]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def table(records: list[dict[str, object]], name: str) -> bytes:
    sink, rows = pa.BufferOutputStream(), pa.Table.from_pylist(records)
    if name.endswith("parquet"):
        pq.write_table(rows, sink, compression="zstd")
    else:
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
    return sink.getvalue().to_pybytes()


def csv(records: list[dict[str, str]]) -> bytes:
    cells = [list(records[0]), *(list(record.values()) for record in records)]
    return "\r\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells).encode()


FILE = {"kind": "file", "table": "comparisons", "columns": {}}
HUB = {"revision": None, "split": None}
SEEDS = {
    "rows.jsonl": (lines(PAIRS), FILE),
    "rows.json": (json.dumps(PAIRS, indent=1).encode(), FILE),
    "rows.csv": (csv(FLAT), FILE),
    "rows.jsonl.gz": (gzip.compress(lines(PAIRS), mtime=0), FILE),
    "dialogues.jsonl": (lines([DIALOGUE] * 5), {"kind": "dialogues", "criterion": "overall"} | HUB),
    "trees.jsonl": (lines([TREE, *REPLIES]), {"kind": "trees"} | HUB),
    "nested.jsonl": (lines([{"prompt": TREE | {"replies": REPLIES}}] * 3), {"kind": "trees"} | HUB),
    "text.txt": ("One\r\n\r\nTwo é\n\n\nThree".encode(), {"kind": "text"}),
    "rows.parquet": (table(PAIRS, "rows.parquet"), FILE),
    "data-00000-of-00001.arrow": (table(PAIRS, "arrow"), {"kind": "hub", "table": "comparisons", "columns": {}} | HUB),
}
PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b'"',
    b"\r",
    b"\n",
    b"[" * 300,
    b"{",
    b"NaN",
    b"1e999",
    b"9" * 40,
]
PIECES += [
    b"\x80\x04",
    b"null",
    b"\xff\xff\xff\x7f",
    b"\x1b[2J",
    "\u202e".encode(),
    b"x" * 3000,
    b'"\n"',
    b",",
    b":",
    b"true",
]


@st.composite
def broken(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a few places changed, cut out, doubled, or overwritten by what readers stumble over."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(found)))
        end = min(len(found), start + draw(st.sampled_from([0, 1, 1, 4, 30, 10_000])))
        how = draw(st.integers(0, 3))
        if how == 0 and start < end:
            found[start] ^= 1 << draw(st.integers(0, 7))
        elif how == 1:
            found[start:end] = draw(st.sampled_from(PIECES))
        elif how == 2:
            del found[start:end]
        else:
            found[start:start] = found[start:end]
    return bytes(found)


@pytest.mark.parametrize("name", SEEDS)
def test_a_broken_file_gives_rows_or_an_error_that_names_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, source = SEEDS[name]
    if not EXAMPLES:  # what is read in a process apart was tried there; here its reader runs a second time
        monkeypatch.setattr(binary, "_try", lambda *_: None)
    path = "." if name.endswith(".arrow") else name
    reading = TypeAdapter(ReadSource).validate_python(source | {"path": path})

    def outcome(content: bytes) -> str | None:
        (tmp_path / name).write_bytes(content)
        try:
            tables = read_source(reading, tmp_path, LIMITS).tables
            for kind, rows in tables.items():
                if rows:
                    add_ids(rows)
                    frame = pa.Table.from_pylist(rows, schema=pa.schema(raw_columns(kind))).to_pandas()
                    kept, bad = check(kind, frame, 1000)
                    assert len(kept) + len(bad) == len(rows)
        except UserError as error:
            return str(error)
        return None

    @settings(
        max_examples=EXAMPLES or 20,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(broken(content))
    def tried(content: bytes) -> None:
        said = outcome(content)
        assert said is None or name in said or str(tmp_path) in said, said

    assert outcome(content) is None
    tried()
