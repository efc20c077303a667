"""When validate refuses a table, and what it says."""

import pandas as pd
import pytest

from rlhf.errors import DataError
from tasks.validate import Counts, refuse


def rows(*reasons: tuple[str, int, list[str]]) -> pd.DataFrame:
    """Bad rows: source, place in it, why."""
    return pd.DataFrame(reasons, columns=["source", "row", "reasons"])


def test_a_share_at_the_limit_is_let_through() -> None:
    refuse({"thumbs": Counts(40, 36, 4, {"thumb is missing": 4}), "texts": Counts(9, 9, 0, {})}, {}, 0.1)
    refuse({"texts": Counts(9, 9, 0, {})}, {}, 0.0)


def test_every_table_that_is_too_bad_is_named_with_its_counts_and_where_to_look() -> None:
    thumbs = Counts(1200, 1000, 200, {"thumb is missing": 50, "empty response": 180})
    counts = {"thumbs": thumbs, "texts": Counts(9, 8, 1, {"empty text": 1}), "prompts": Counts(9, 9, 0, {})}
    bad = {
        "thumbs": rows(
            ("app", 7, ["empty response"]), ("app", 3, ["empty response", "thumb is missing"]), ("web", 0, [])
        ),
        "texts": rows(("book", 1, ["empty text"])),
    }
    with pytest.raises(DataError) as refusal:
        refuse(counts, bad, 0.1)
    assert str(refusal.value).splitlines() == [
        "Too many bad rows; validate.max_quarantined allows 10.0% of a table.",
        "  thumbs: 200 of 1,200 rows (16.7%) are bad",
        "    empty response: 180, the first of them row 7 of app",
        "    thumb is missing: 50, the first of them row 3 of app",
        "  texts: 1 of 9 rows (11.1%) are bad",
        "    empty text: 1, the first of them row 1 of book",
        "Rows are counted from 0. Mend the source, correct its `columns`, or raise the limit in params.yaml",
    ]


def test_no_limit_lets_a_table_without_a_good_row_through() -> None:
    bad = {"texts": rows(("book", 0, ["empty text"]), ("book", 1, ["empty text"]))}
    with pytest.raises(DataError, match=r"texts: 2 of 2 rows \(100\.0%\) are bad\n    empty text: 2, .* row 0 of book"):
        refuse({"texts": Counts(2, 0, 2, {"empty text": 2})}, bad, 1.0)
