"""The promotion ledger: linear history, and only one of two promoters who saw the same champion wins."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from rlhf.errors import Busy, DataError, GateRefused
from rlhf.gate.ledger import Champion, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state/ledger.db")


def test_reading_an_empty_ledger_makes_nothing(ledger: Ledger) -> None:
    assert ledger.current() is None
    assert ledger.previous() is None
    assert ledger.history() == []
    assert not ledger.path.parent.exists()


def test_generations_count_up_and_history_stays(ledger: Ledger) -> None:
    first = ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    second = ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1, approver="ada")
    assert (first.generation, second.generation) == (1, 2)
    assert ledger.current() == second
    assert ledger.previous() == first
    assert Ledger(ledger.path).history() == [first, second]
    assert (second.action, second.candidate_key, second.policy) == ("promote", "key-b", "bb")
    assert (second.version, second.report_digest, second.approver) == (
        "policy/2",
        "report-b",
        "ada",
    )


@pytest.mark.parametrize("expected", [0, 2, 7])
def test_a_stale_decision_loses_and_changes_nothing(ledger: Ledger, expected: int) -> None:
    first = ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    with pytest.raises(Busy, match=f"generation 1, this promote was decided on generation {expected}"):
        ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=expected)
    assert ledger.history() == [first]


def test_rollback_is_one_more_generation_and_goes_further_back(ledger: Ledger) -> None:
    ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1)
    back = ledger.rollback(expected_generation=2)
    assert (back.generation, back.action, back.candidate_key) == (3, "rollback", "key-a")
    assert (back.policy, back.report_digest) == ("aa", "report-a")
    assert ledger.rolled_back() == {"bb"}
    with pytest.raises(GateRefused, match="no earlier champion"):
        ledger.rollback(expected_generation=3)  # what was rolled back does not come back by another rollback
    ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=3)
    assert ledger.rolled_back() == set(), "a person has brought it back"
    ledger.promote("key-c", "cc", "policy/3", "report-c", expected_generation=4)
    with pytest.raises(Busy):
        ledger.rollback(expected_generation=4)
    assert [ledger.rollback(expected_generation=n).policy for n in (5, 6)] == ["bb", "aa"]


def test_rollback_needs_an_earlier_champion(ledger: Ledger) -> None:
    with pytest.raises(GateRefused, match="no earlier champion"):
        ledger.rollback(expected_generation=0)
    ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    with pytest.raises(GateRefused, match="no earlier champion"):
        ledger.rollback(expected_generation=1)


def test_policies_that_were_judged_are_known_by_test_set(ledger: Ledger) -> None:
    assert ledger.judged() == {}
    for digest, test_set, policies in [
        ("d1", "new", ["b", "a"]),
        ("d1", "new", ["x"]),
        ("d2", "new", ["b"]),
        ("d3", "", ["c"]),
    ]:
        ledger.record(digest, test_set, policies, "REJECT")
    assert ledger.judged() == {"": ["c"], "new": ["a", "b"]}
    assert ledger.current() is None


@pytest.mark.parametrize("content", ["a table of other columns", "no database"])
def test_a_file_that_is_no_ledger_of_ours_is_named(ledger: Ledger, content: str) -> None:
    ledger.path.parent.mkdir()
    if content == "no database":
        ledger.path.write_text(content * 100)
    else:
        with closing(sqlite3.connect(ledger.path)) as old:
            old.execute("CREATE TABLE champions (generation INTEGER PRIMARY KEY, action TEXT)")
    with pytest.raises(DataError, match=r"ledger\.db is not a ledger.*Move it away"):
        ledger.current()


def test_of_many_promoters_of_one_generation_exactly_one_wins(ledger: Ledger) -> None:
    gate, won, lost = threading.Barrier(8), [], []

    def promote(name: str) -> None:
        gate.wait()
        try:
            won.append(ledger.promote(name, name, name, name, expected_generation=0))
        except Busy:
            lost.append(name)

    threads = [threading.Thread(target=promote, args=(f"key-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert ledger.history() == won


def test_a_fault_inside_the_transaction_leaves_no_trace(ledger: Ledger) -> None:
    first: Champion = ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    with pytest.raises(Exception, match="NOT NULL"):
        ledger.promote(None, "bb", "policy/2", "report-b", expected_generation=1)  # type: ignore[arg-type]
    assert ledger.history() == [first]
    assert ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1).generation == 2
