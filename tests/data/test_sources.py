"""Foreign records become rows: TRL's formats, mappings, dialogues, trees, saved data sets; faults become defects."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.config.data import Columns, DialoguesSource, FileSource
from rlhf.config.training import HubModel
from rlhf.data.sources import local_path, require_distinct, source_name
from rlhf.data.tables import Row
from rlhf.data.values import word
from rlhf.errors import ConfigError, DataError
from tests.data.frames import gave, user

SKY = user("What color is the sky?")
BLUE = [{"role": "assistant", "content": "It is blue."}]
GREEN = [{"role": "assistant", "content": "It is green."}]


def read(tmp_path: Path, records: list[Any], table: str, columns: Columns | None = None) -> list[Row]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    return gave(tmp_path, kind="file", path="rows.jsonl", table=table, columns=columns or {}).tables[table]


def picked(rows: list[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize(
    ("record", "table", "expected"),
    [
        (
            {"prompt": SKY[0]["content"], "completion": "It is blue."},
            "demonstrations",
            {"prompt": SKY, "response": "It is blue."},
        ),
        ({"prompt": SKY, "completion": BLUE}, "demonstrations", {"prompt": SKY, "response": "It is blue."}),
        (
            {"prompt": SKY, "completion": BLUE + user("Sure?") + GREEN},
            "demonstrations",
            {"prompt": SKY + BLUE + user("Sure?"), "response": "It is green."},
        ),
        ({"messages": SKY + BLUE}, "demonstrations", {"prompt": SKY, "response": "It is blue."}),
        (
            {"conversations": [{"from": "human", "value": SKY[0]["content"]}, {"from": "gpt", "value": "It is blue."}]},
            "demonstrations",
            {"prompt": SKY, "response": "It is blue."},
        ),
        (
            {"prompt": SKY, "chosen": BLUE, "rejected": GREEN},
            "comparisons",
            {"prompt": SKY, "chosen": "It is blue.", "rejected": "It is green.", "rejected_prompt": None},
        ),
        (
            {"chosen": SKY + BLUE, "rejected": SKY + GREEN},
            "comparisons",
            {"prompt": SKY, "chosen": "It is blue.", "rejected": "It is green.", "rejected_prompt": None},
        ),
        (
            {"prompt": SKY[0]["content"], "chosen": SKY + BLUE, "rejected": SKY + GREEN},
            "comparisons",
            {"prompt": SKY, "chosen": "It is blue.", "rejected": "It is green.", "tie": False, "strength": 1.0},
        ),
        (
            {"chosen": SKY + BLUE, "rejected": user("Another?") + GREEN},
            "comparisons",
            {"prompt": SKY, "rejected_prompt": user("Another?")},
        ),
        ({"prompt": SKY, "completion": BLUE, "label": True}, "thumbs", {"response": "It is blue.", "thumb": True}),
        ({"prompt": "p", "completion": "r", "label": 0.0}, "thumbs", {"thumb": False}),
        ({"prompt": "p", "completion": "r", "label": " Yes"}, "thumbs", {"thumb": True}),
        ({"prompt": "p", "completion": "r", "label": ""}, "thumbs", {"thumb": None}),
        (
            {"prompt": "p", "response": "r", "rating": "4.0", "scale": 5, "annotator": "ann"},
            "ratings",
            {"rating": 4, "scale": 5, "annotator": "ann", "group": ""},
        ),
        (
            {"prompt": "p", "response": "r", "thumb": True, "annotator": 3, "group": 4.0, "criterion": "polite"},
            "thumbs",
            {"annotator": "3", "group": "4", "criterion": "polite", "defects": []},
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranks": [0, None]},
            "rankings",
            {"responses": ["a", "b"], "ranks": [1, None]},
        ),
        ({"prompt": "p", "responses": '["a", "b"]', "ranks": "[2, 1]"}, "rankings", {"ranks": [2, 1]}),
        ({"prompt": json.dumps(SKY)}, "prompts", {"prompt": SKY, "kind": "user", "use_case": ""}),
        (
            {"prompt": json.dumps(SKY), "response": json.dumps(BLUE)},
            "demonstrations",
            {"prompt": SKY, "response": json.dumps(BLUE)},  # people ask for JSON
        ),
        ({"text": "x"}, "texts", {"text": "x"}),
    ],
)
def test_forms(tmp_path: Path, record: Row, table: str, expected: Row) -> None:
    (row,) = read(tmp_path, [record], table)
    assert row | expected == row
    assert row["defects"] == []
    assert row["source"] == "rows.jsonl"


@pytest.mark.parametrize(
    ("record", "table", "expected"),
    [
        ({"messages": SKY + BLUE}, "demonstrations", {"prompt": SKY, "response": "It is blue."}),
        ({"prompt": SKY, "completion": BLUE}, "demonstrations", {"prompt": SKY, "response": "It is blue."}),
        (
            {"chosen": SKY + BLUE, "rejected": SKY + GREEN},
            "comparisons",
            {"prompt": SKY, "chosen": "It is blue.", "rejected": "It is green.", "rejected_prompt": None},
        ),
        ({"prompt": "p", "response": [{}]}, "demonstrations", {"response": "[{}]"}),
    ],
)
def test_conversations_in_a_csv_are_json(tmp_path: Path, record: Row, table: str, expected: Row) -> None:
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        cells = [value if isinstance(value, str) else json.dumps(value) for value in record.values()]
        csv.writer(file).writerows([record.keys(), cells])
    (row,) = gave(tmp_path, kind="file", path="rows.csv", table=table, columns={}).tables[table]
    assert row | expected == row
    assert row["defects"] == []


def test_columns_by_name_path_template_and_number(tmp_path: Path) -> None:
    records = [{"task": {"text": "Sum"}, "cases": [{"in": "1 2", "out": "3"}], "a.b": 4}, {"task": {"text": "Go"}}]
    columns: Columns = {"prompt": "{task.text}\n\n{cases.0.in}", "response": "cases.0.out", "rating": "a.b", "scale": 7}
    rows = read(tmp_path, records, "ratings", columns)
    assert picked(rows, "prompt", "response", "rating", "scale", "row") == [
        (user("Sum\n\n1 2"), "3", 4, 7, 0),
        (user("Go"), None, None, 7, 1),
    ]


def test_a_judgement_says_by_which_criterion_it_was_made(tmp_path: Path) -> None:
    thumbs = [
        {"prompt": "p", "response": "r", "thumb": True} | said for said in ({"criterion": "helpful"}, {}, {"by": 1})
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, thumbs)))
    found = gave(tmp_path, kind="file", path="rows.jsonl", table="thumbs", columns={})
    assert [row["criterion"] for row in found.tables["thumbs"]] == ["helpful", "overall", "overall"]
    pair = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(pair))
    found = gave(tmp_path, kind="dialogues", path="rows.jsonl", criterion="harmless")
    assert [row["criterion"] for row in found.tables["comparisons"]] == ["harmless"]


def test_votes_of_several_annotators(tmp_path: Path) -> None:
    record = {"prompt": "p", "one": "a", "two": "b", "ann": 2.0, "bob": "tie", "eve": " Model_A", "joe": 3.0}
    columns: Columns = {"first": "one", "second": "two", "winner": ["ann", "bob", "eve", "joe"]}
    rows = read(tmp_path, [record], "comparisons", columns)
    assert picked(rows, "annotator", "chosen", "rejected", "tie") == [
        ("ann", "b", "a", False),
        ("bob", "a", "b", True),
        ("eve", "a", "b", False),
        ("joe", "a", "b", False),
    ]
    assert [row["defects"] for row in rows] == [[], [], [], ["winner is not one of first, second, tie"]]


@pytest.mark.parametrize(
    ("record", "table", "defects"),
    [
        ({"prompt": "p", "response": True}, "demonstrations", ["response is not text"]),
        ({"prompt": 5, "response": ["x"]}, "demonstrations", ["response is not text", "prompt is not text"]),
        ({"prompt": "p", "response": "\ud800"}, "demonstrations", ["response is not valid Unicode"]),
        ({"prompt": "p", "response": "\U0001f600"}, "demonstrations", []),
        ({"messages": SKY}, "demonstrations", ["response is not the assistant's"]),
        ({"messages": [{"role": "user", "content": None}, *BLUE]}, "demonstrations", []),
        (
            {"messages": [{"role": 1, "content": ["x"]}, *BLUE]},
            "demonstrations",
            ["role is not text", "message is not text"],
        ),
        ({"prompt": "p", "chosen": 1, "rejected": "b"}, "comparisons", ["chosen response is not text"]),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tie": "maybe"},
            "comparisons",
            ["tie is neither true nor false"],
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "strength": "big"},
            "comparisons",
            ["strength is not a number"],
        ),
        (
            {"prompt": "p", "response": "r", "rating": 4.5, "scale": True},
            "ratings",
            ["rating is not a whole number", "scale is not a whole number"],
        ),
        ({"prompt": "p", "response": "r", "thumb": 2}, "thumbs", ["thumb is neither true nor false"]),
        ({"prompt": "p", "responses": "a", "ranks": [1]}, "rankings", ["responses is not a list"]),
        (
            {"prompt": "p", "responses": ["a", 2], "ranks": ["x", 1]},
            "rankings",
            ["response is not text", "rank is not a whole number"],
        ),
    ],
)
def test_faults_of_a_record_are_noted(tmp_path: Path, record: Row, table: str, defects: list[str]) -> None:
    (row,) = read(tmp_path, [record], table)
    assert row["defects"] == defects


@pytest.mark.parametrize(
    ("record", "columns", "error", "message"),
    [
        ({"promt": "p", "response": "r"}, {}, DataError, r"rows.jsonl has no column `prompt`.*did you mean `promt`"),
        ({"q": "p", "response": "r"}, {}, DataError, r"columns: {prompt: NAME}`\. Its columns are q, response$"),
        (
            {"question": "p", "a": "r"},
            {"prompt": "qestion"},
            DataError,
            "no column `qestion` for `prompt`; did you mean `question`",
        ),
        ({"question": "p"}, {"prompt": "{question} {inputs.0}"}, DataError, "no column `inputs` for `prompt`"),
        (
            {"prompt": "p", "response": "r", "meta": {"use": None}},
            {"use_case": "meta.uses"},
            DataError,
            "no column `meta.uses` for `use_case`; did you mean `meta.use`",
        ),
        (
            {"prompt": "p", "response": "r", "meta": {"a": "x"}},
            {"use_case": "meta.b.c"},
            DataError,
            "no column `meta.b` for `use_case`. Its columns are meta.a",
        ),
        ({"q": "p"}, {"promt": "q"}, ConfigError, "demonstrations have no column `promt`; did you mean `prompt`"),
        ({"q": "p"}, {"prompt": ["q"]}, ConfigError, "`columns.prompt` is a list; only winner, rating, thumb"),
    ],
)
def test_wrong_mappings(tmp_path: Path, record: Row, columns: Columns, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, [record], "demonstrations", columns)


def test_strings_without_a_prompt_are_no_implicit_prompt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column `prompt`, which comparisons need"):
        read(tmp_path, [{"chosen": "a", "rejected": "b"}], "comparisons")


def dialogues(tmp_path: Path, *records: Row) -> dict[str, list[Row]]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    return gave(tmp_path, kind="dialogues", path="rows.jsonl").tables


def test_dialogues(tmp_path: Path) -> None:
    context = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tell me:\n\nwhat is it?"
    tables = dialogues(
        tmp_path,
        {"chosen": context + "\n\nAssistant: Yes.", "rejected": context + "\n\nAssistant:"},
        {"chosen": "\n\nHuman: Hi", "rejected": True},
    )
    assert picked(tables["comparisons"], "prompt", "chosen", "rejected", "rejected_prompt", "defects") == [
        (user("Hi", "Hello", "Tell me:\n\nwhat is it?"), "Yes.", "", None, []),
        (user("Hi"), None, None, [], ["rejected dialogue is not text"]),
    ]
    assert picked(tables["demonstrations"], "response", "use_case", "defects") == [("Yes.", "", []), (None, "", [])]


def test_pairs_that_are_no_dialogues(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind: file"):
        dialogues(tmp_path, {"chosen": "a", "rejected": "b"})


@pytest.mark.parametrize("winners", [(0, 1), ("1", "0", "0"), (0.0, 1.0)])
def test_winners_that_may_count_from_0_are_refused(winners: tuple[object, ...], tmp_path: Path) -> None:
    """1 would be the first answer to us, and the second to them."""
    records = [{"prompt": "p", "first": "a", "second": "b", "winner": winner} for winner in winners]
    with pytest.raises(DataError, match=r"rows\.jsonl: the winner is 0 or 1 and never 2.*wrong way round"):
        read(tmp_path, records, "comparisons")
    known = read(tmp_path, [*records, records[0] | {"winner": 2}], "comparisons")
    assert [row["tie"] for row in known] == [word(winner) == "0" for winner in (*winners, 2)]


def test_other_data_of_the_same_name_is_refused() -> None:
    def named(*paths: str) -> list[FileSource]:
        return [FileSource(kind="file", path=path, table="prompts", columns={}) for path in paths]

    require_distinct(named("x/data/rows.jsonl", "x/data/rows.jsonl", "x/data/more.jsonl"))
    with pytest.raises(ConfigError, match=r"x/data/rows\.jsonl and y/data/rows\.jsonl would both be named data/rows"):
        require_distinct(named("x/data/rows.jsonl", "y/data/rows.jsonl"))


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\r\nOne\r\n  two\r\n\r\n \t\r\n\r\nThree\n")
    texts = gave(tmp_path, kind="text", path="text.txt").tables["texts"]
    assert picked(texts, "text", "row") == [("One\n  two", 0), ("Three", 1)]


def test_a_data_set_saved_to_a_directory(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list([{"prompt": SKY, "completion": BLUE}])
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
    source = {"kind": "hub", "path": "saved", "split": "train", "table": "demonstrations", "columns": {}}
    (row,) = gave(tmp_path, **source).tables["demonstrations"]
    assert (row["prompt"], row["response"], row["defects"]) == (SKY, "It is blue.", [])
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        gave(tmp_path, **source | {"split": "test"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a directory that `datasets` saved"):
        gave(tmp_path, **source | {"path": "empty"})


def test_a_hub_source_is_named_by_its_commit() -> None:
    source = DialoguesSource(
        kind="dialogues", criterion="overall", path="owner/data", revision="0123456789" * 4, split="train"
    )
    assert source_name(source) == "owner/data@01234567:train"
    assert local_path(source) is None


def test_the_hub_out_of_reach_is_a_passing_fault() -> None:
    program = "from rlhf.data.sources.hub import hub_records; hub_records('owner/data', '0' * 40, 'train', None)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "rlhf.errors.Retryable: owner/data cannot be read from the hub" in done.stderr


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "C:\\", "a/b/c", "-rf", "$(id)", "a\nb", "a/b\n", "x" * 300, "é", "", ".."]
)
def test_what_is_no_name_of_the_hub_is_not_sought_there(name: str) -> None:
    commit = "0123456789" * 4
    with pytest.raises(ValidationError, match="`path` must be a hub id"):
        DialoguesSource(kind="dialogues", criterion="overall", path=name, revision=commit, split="train")
    with pytest.raises(ValidationError, match="should match pattern"):
        HubModel(kind="hub", id=name, revision=commit)
    assert HubModel(kind="hub", id="owner/name-1.5", revision=commit)


@pytest.mark.parametrize(
    ("revision", "split"), [("main", "train"), *(("0123456789" * 4, no) for no in (None, "train[:10%]", "train+test"))]
)
def test_a_hub_source_needs_a_commit_and_a_split(revision: str, split: str | None) -> None:
    with pytest.raises(ValidationError, match=r"should match pattern|a hub data set needs `split`"):
        DialoguesSource(kind="dialogues", criterion="overall", path="owner/data", revision=revision, split=split)
