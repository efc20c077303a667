"""Message trees become rankings, demonstrations and prompts; what is missing of them is counted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlhf.data.tables import Row
from rlhf.errors import DataError
from tests.data.frames import gave, user
from tests.data.test_sources import picked


def message(name: str, parent: str | None, text: str, rank: int | None = None, **more: Any) -> Row:
    role = "prompter" if parent is None or name.startswith("p") else "assistant"
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank, **more}


MESSAGES = [
    message("p0", None, "Hi"),
    message("a0", "p0", "Hello", 1),
    message("a1", "p0", "Hey", 0, synthetic=True),
    message("p1", "a0", "More"),
    message("a2", "p1", "Only child"),
    message("p2", "a0", "Again"),
    message("a3", "p2", "x y", 0),
    message("a4", "p2", "X  Y!", 1),
    message("a5", "p2", "z"),
    message("p3", None, "Alone"),
    message("a6", "p3", "one"),
    message("a7", "p3", "two"),
]


def nested(name: str) -> Row:
    found = next(record for record in MESSAGES if record["message_id"] == name)
    return {**found, "replies": [nested(entry["message_id"]) for entry in MESSAGES if entry["parent_id"] == name]}


@pytest.mark.parametrize(
    "records", [MESSAGES, [{"prompt": nested("p0")}, {"prompt": nested("p3")}]], ids=["flat", "nested"]
)
def test_trees(tmp_path: Path, records: list[Row]) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    collected = gave(tmp_path, kind="trees", path="rows.jsonl")
    assert picked(collected.tables["rankings"], "prompt", "responses", "ranks", "defects", "row") == [
        (user("Hi"), ["Hello", "Hey"], [2, 1], [], 0),
        (user("Hi", "Hello", "Again"), ["x y", "X  Y!", "z"], [1, 2, None], ["responses are identical"], 0),
    ]
    assert picked(collected.tables["demonstrations"], "prompt", "response") == [
        (user("Hi", "Hello", "More"), "Only child"),
        (user("Hi", "Hello", "Again"), "x y"),
    ]
    assert [row["prompt"][-1]["content"] for row in collected.tables["prompts"]] == ["Hi", "More", "Again", "Alone"]
    assert collected.counts == {
        "messages": 12,
        "synthetic": 1,
        "deleted": 0,
        "unranked_groups": 1,
        "without_parent": 0,
        "repeated": 0,
    }


def test_trees_of_which_messages_are_missing(tmp_path: Path) -> None:
    """In a csv nobody's parent is an empty text; what hangs on a message that is not there is counted; what was deleted
    was not ranked."""
    records = [record | {"parent_id": record["parent_id"] or ""} for record in MESSAGES]
    records += [
        message("a8", "gone", "lost"),
        message("p8", "a8", "lost, too"),
        message("a9", "p0", "No", 2, deleted=True),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    collected = gave(tmp_path, kind="trees", path="rows.jsonl")
    assert collected.counts["without_parent"] == 1
    assert collected.counts["messages"] == 13
    assert collected.tables["rankings"][0]["responses"] == ["Hello", "Hey"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(MESSAGES[1]))
    with pytest.raises(DataError, match="no tree begins"):
        gave(tmp_path, kind="trees", path="rows.jsonl")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_what_was_deleted_is_left_out_with_all_that_replies_to_it(ending: str, tmp_path: Path) -> None:
    """A deleted answer was ranked first, and a deleted prompt was answered. In a csv what stays is "False"."""
    records = [
        message("p0", None, "Hi"),
        message("a0", "p0", "Gone", 0, deleted=True),
        message("p1", "a0", "More"),
        message("a1", "p0", "Hello", 1),
        message("p2", "a1", "Gone, too", deleted=True),
        message("a2", "p2", "Only child"),
        message("a3", "p0", "Hey", 2),
    ]
    if ending == "csv":
        pd.DataFrame([{"deleted": False} | record for record in records]).to_csv(tmp_path / "rows.csv", index=False)
    else:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    collected = gave(tmp_path, kind="trees", path=f"rows.{ending}")
    assert (collected.counts["messages"], collected.counts["deleted"]) == (5, 2)
    assert [row["prompt"] for row in collected.tables["prompts"]] == [user("Hi")]
    assert [row["responses"] for row in collected.tables["rankings"]] == [["Hello", "Hey"]]
    assert list(collected.tables["demonstrations"]) == []


def test_a_csv_of_messages_says_what_their_jsonl_says(tmp_path: Path) -> None:
    """Where pandas has written it, a rank is 0.0, and nobody's is empty."""
    records = [
        message("p0", None, "Hi"),
        message("a0", "p0", "Hey", 1),
        message("a1", "p0", "Hello", 0),
        message("p1", "a1", "How are you?"),
        message("a2", "p1", "Well"),
        message("p2", "a0", "And you?"),
        message("a3", "p2", "Fine"),
        message("a4", "p2", "Good"),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    pd.DataFrame(records).to_csv(tmp_path / "rows.csv", index=False)
    lines, csv = (gave(tmp_path, kind="trees", path=f"rows.{ending}") for ending in ("jsonl", "csv"))
    assert [row["response"] for row in lines.tables["demonstrations"]] == ["Hello", "Well"]
    assert [row["ranks"] for row in lines.tables["rankings"]] == [[2, 1]]
    assert lines.counts["unranked_groups"] == 1
    assert csv.counts == lines.counts
    for name, columns in {"rankings": ("responses", "ranks"), "demonstrations": ("response",), "prompts": ()}.items():
        both = (picked(one.tables[name], "prompt", *columns, "defects") for one in (lines, csv))
        assert list(next(both)) == list(next(both))


def test_messages_that_come_twice_count_once(tmp_path: Path) -> None:
    """As in two exports that overlap. A message that is its own parent begins no tree, and no walk is without end."""
    chain = [message(f"p{depth}", f"p{depth - 1}" if depth else None, f"turn {depth}") for depth in range(40)]
    own = message("own", "own", "my own parent")
    nameless = [message("x", None, "?") | {"message_id": name} for name in (["p0"], None, "")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*chain, *chain, own, own, *nameless])))
    collected = gave(tmp_path, kind="trees", path="rows.jsonl")
    assert (collected.counts["messages"], collected.counts["repeated"]) == (40, 41)
    assert len(collected.tables["prompts"]) == 40
