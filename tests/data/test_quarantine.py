"""Every reason of every table, alone and together, and nothing else."""

from typing import Any

import pytest

from rlhf.data.quarantine import SCHEMAS, check
from rlhf.data.tables import COLUMNS
from rlhf.errors import DataError
from tests.data.frames import raw, user

GOOD: dict[str, dict[str, Any]] = {
    "demonstrations": {},
    "comparisons": {"chosen": "yes", "rejected": "no"},
    "ratings": {"rating": 5},
    "thumbs": {"thumb": False},
    "rankings": {"responses": ["a", "b", "c"], "ranks": [1, 1, 2]},
    "beliefs": {"statements": ["It is.", "It is not."], "votes": [3, 0]},
    "prompts": {"kind": "few_shot"},
    "texts": {"text": "Once."},
}
SYSTEM = [{"role": "system", "content": "Be brief."}]

BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("demonstrations", {"response": " \n\t\u00a0"}, ["empty response"]),
    ("demonstrations", {"response": None}, ["empty response"]),
    ("demonstrations", {"prompt": []}, ["prompt is empty", "roles do not alternate"]),
    ("demonstrations", {"prompt": user("Hi", "Hello")}, ["roles do not alternate"]),
    ("demonstrations", {"prompt": user("Hi") + SYSTEM}, ["roles do not alternate"]),
    (
        "demonstrations",
        {"prompt": [{"role": "human", "content": "Hi"}]},
        ["a role is none of system, user and assistant", "roles do not alternate"],
    ),
    ("demonstrations", {"prompt": user("Hi", " ", "So")}, ["empty message in prompt"]),
    ("demonstrations", {"prompt": user("x" * 101)}, ["prompt longer than 100 characters"]),
    ("demonstrations", {"response": "x" * 101}, ["response longer than 100 characters"]),
    ("demonstrations", {"use_case": None}, ["use_case is missing"]),
    ("comparisons", {"chosen": ""}, ["empty chosen response"]),
    ("comparisons", {"chosen": None, "rejected": " "}, ["empty chosen response", "empty rejected response"]),
    ("comparisons", {"chosen": "", "rejected": ""}, ["empty chosen response", "empty rejected response"]),
    ("comparisons", {"chosen": "same ", "rejected": " same"}, ["responses are identical"]),
    ("comparisons", {"strength": 0.0}, ["strength is not positive"]),
    ("comparisons", {"strength": None}, ["strength is not positive"]),
    ("comparisons", {"strength": float("inf")}, ["strength is not positive"]),
    ("comparisons", {"tie": None}, ["tie is missing"]),
    ("comparisons", {"defects": ["chosen response is not text"]}, ["chosen response is not text"]),
    ("comparisons", {"rejected_prompt": user("Who?")}, ["chosen and rejected do not share the context"]),
    (
        "comparisons",
        {"prompt": user("a", "b")},
        ["roles do not alternate in chosen", "roles do not alternate in rejected"],
    ),
    (
        "comparisons",
        {"prompt": user("a", "b"), "rejected_prompt": user("a")},
        ["chosen and rejected do not share the context", "roles do not alternate in chosen"],
    ),
    (
        "comparisons",
        {"rejected_prompt": user("a", "b"), "rejected": ""},
        [
            "chosen and rejected do not share the context",
            "empty rejected response",
            "roles do not alternate in rejected",
        ],
    ),
    ("ratings", {"rating": 6}, ["rating is outside its scale"]),
    ("ratings", {"rating": 0}, ["rating is outside its scale"]),
    ("ratings", {"rating": None}, ["rating is missing"]),
    ("ratings", {"scale": 6}, ["scale is neither 5 nor 7"]),
    ("ratings", {"scale": None}, ["scale is neither 5 nor 7"]),
    ("thumbs", {"thumb": None}, ["thumb is missing"]),
    ("thumbs", {"annotator": None}, ["annotator is missing"]),
    ("thumbs", {"criterion": None}, ["criterion is missing"]),
    ("thumbs", {"criterion": "not a name"}, ["criterion is no name: lower-case letters, digits and _, a letter first"]),
    ("rankings", {"responses": ["a"], "ranks": [1]}, ["not 2 to 9 responses"]),
    ("rankings", {"responses": list("abcdefghij"), "ranks": [1] * 10}, ["not 2 to 9 responses"]),
    ("rankings", {"responses": None, "ranks": None}, ["not 2 to 9 responses"]),
    ("rankings", {"ranks": [1, None, 2]}, ["rank is missing"]),
    ("rankings", {"ranks": [1, 2]}, ["not one rank for each response"]),
    ("rankings", {"ranks": [0, 1, 2]}, ["rank is below 1"]),
    ("rankings", {"responses": ["a", "b", "a "]}, ["responses are identical"]),
    ("rankings", {"responses": ["a", None, ""]}, ["empty response"]),
    ("rankings", {"responses": ["a", "b", "x" * 101]}, ["responses longer than 100 characters"]),
    ("beliefs", {"statements": ["It is."], "votes": [1]}, ["fewer than 2 statements"]),
    ("beliefs", {"statements": ["It is.", " "]}, ["empty statement"]),
    ("beliefs", {"statements": ["So it is.", "it is."]}, ["a statement is part of another"]),
    ("beliefs", {"statements": ["It is.", "x" * 101]}, ["statements longer than 100 characters"]),
    ("beliefs", {"votes": [0, 0]}, ["votes are not counts, or all 0"]),
    ("beliefs", {"votes": [2, -1]}, ["votes are not counts, or all 0"]),
    ("beliefs", {"votes": [2, None]}, ["votes are not counts, or all 0"]),
    ("beliefs", {"votes": [1, 2, 3]}, ["not one count of votes for each statement"]),
    ("prompts", {"kind": "few-shot"}, ["kind is not one of plain, few_shot, user"]),
    ("texts", {"text": " "}, ["empty text"]),
    ("texts", {"text": "x" * 101}, ["text longer than 100 characters"]),
]


def test_every_table_has_a_schema() -> None:
    assert SCHEMAS.keys() == COLUMNS.keys() == GOOD.keys()


@pytest.mark.parametrize("table", GOOD)
def test_good_rows_stay_as_they_are(table: str) -> None:
    rows = raw(table, GOOD[table], GOOD[table])
    kept, bad = check(table, rows, 100)
    assert bad.empty
    assert kept.equals(rows)


@pytest.mark.parametrize("table", GOOD)
def test_a_row_at_the_limit_stays(table: str) -> None:
    texts = {"response": "x" * 100, "text": "x" * 100, "prompt": SYSTEM + user("x" * (100 - len("Be brief.")))}
    assert check(table, raw(table, {**GOOD[table], **texts}), 100)[1].empty


@pytest.mark.parametrize(("table", "fault", "reasons"), BAD)
def test_a_bad_row_leaves_with_its_reasons_and_its_neighbours_stay(
    table: str, fault: dict[str, Any], reasons: list[str]
) -> None:
    good = GOOD[table]
    kept, bad = check(table, raw(table, good, {**good, **fault, "row": 1}, {**good, "row": 2}), 100)
    assert bad["reasons"].tolist() == [reasons]
    assert bad["row"].tolist() == [1]
    assert kept["row"].tolist() == [0, 2]


def test_all_rows_bad() -> None:
    kept, bad = check("thumbs", raw("thumbs", {"thumb": None}, {"response": ""}), 100)
    assert kept.empty
    assert bad["reasons"].tolist() == [["thumb is missing"], ["empty response", "thumb is missing"]]


def test_a_table_without_a_column_is_an_error_not_a_bad_row() -> None:
    with pytest.raises(DataError, match="table thumbs does not have the columns"):
        check("thumbs", raw("thumbs", GOOD["thumbs"]).drop(columns="group"), 100)
