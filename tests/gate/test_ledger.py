"""The promotion ledger: linear history, and only one of two promoters who saw the same champion wins."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from rlhf.errors import Busy, DataError, GateRefused
from rlhf.gate.ledger import Champion, Ledger, rolled_back


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
    assert rolled_back(ledger.history()) == {"bb"}
    with pytest.raises(GateRefused, match="no earlier champion"):
        ledger.rollback(expected_generation=3)  # what was rolled back does not come back by another rollback
    ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=3)
    assert rolled_back(ledger.history()) == set(), "a person has brought it back"
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
    assert ledger.judged() == []
    for digest, test_set, policies in [
        ("d9", "new", ["b", "a"]),
        ("d9", "new", ["x"]),
        ("d2", "new", ["b"]),
        ("d3", "", ["c", "b"]),
        ("d1", "new", ["b", "c"]),
    ]:
        ledger.record(digest, test_set, policies, "REJECT")
    assert ledger.judged() == [
        {"test_set": "new", "looks": ["a", "b"]},
        {"test_set": "", "looks": ["b", "c"]},
        {"test_set": "new", "looks": ["c"]},
    ], "in the order of the decisions, each look once"
    assert ledger.current() is None


@pytest.mark.parametrize("content", ["a table of other columns", "no database"])
def test_a_file_that_is_no_ledger_of_ours_is_named(ledger: Ledger, content: str) -> None:
    ledger.path.parent.mkdir()
    if content == "no database":
        ledger.path.write_text(content * 100)
    else:
        with closing(sqlite3.connect(ledger.path)) as old:
            old.execute("CREATE TABLE champions (generation INTEGER PRIMARY KEY, action TEXT)")
    with pytest.raises(DataError, match=r"ledger\.db is not a ledger.*move it away"):
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
        ledger.promote(None, "bb", "policy/2", "report-b", expected_generation=1)
    assert ledger.history() == [first]
    assert ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1).generation == 2


def test_a_crash_at_any_statement_leaves_the_old_ledger_or_the_new_one(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote_until(place: int) -> bool:
        """Promote and die at the place; whether it was reached."""
        hits = tmp_path / f"hits-{place}"
        child = os.fork()
        if child == 0:
            monkeypatch.setenv("RLHF_FAILPOINT", f"{hits}:{place}:kill")
            ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == signal.SIGKILL

    ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    before, found = ledger.path.read_bytes(), []
    for place in range(1, 100):
        died = promote_until(place)
        found.append([one.policy for one in ledger.history()])
        assert ledger.promote("key-c", "cc", "policy/3", "report-c", len(found[-1])).generation == len(found[-1]) + 1
        ledger.path.write_bytes(before)
        if not died:
            break
    assert len(found) > 6, "every statement is a place"
    assert found == [["aa"]] * (len(found) - 2) + [["aa", "bb"]] * 2, "one place is behind COMMIT"


def test_a_crash_while_the_ledger_is_made_leaves_none_or_a_whole_one(ledger: Ledger, tmp_path: Path) -> None:
    for place in range(1, 20):
        child = os.fork()
        if child == 0:
            os.environ["RLHF_FAILPOINT"] = f"{tmp_path / str(place)}:{place}:kill"
            ledger.record("d1", "prompts", ["a"], "REJECT")
            os._exit(0)
        os.waitpid(child, 0)
        assert ledger.judged() in ([], [{"test_set": "prompts", "looks": ["a"]}])
        ledger.path.unlink(missing_ok=True)


def test_a_ledger_that_another_process_holds_is_busy_and_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.gate.ledger.PATIENCE", 0.05)
    first = ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (ledger.history, lambda: ledger.promote("key-b", "bb", "policy/2", "report-b", 1)):
            with pytest.raises(Busy, match=r"ledger\.db is in use by another process"):
                use()
    assert ledger.history() == [first]


def test_a_ledger_of_a_later_version_is_refused(ledger: Ledger) -> None:
    ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as later:
        later.execute("PRAGMA user_version = 7")
    with pytest.raises(DataError, match=r"ledger\.db is a ledger of version 7.*Use the rlhf that wrote it"):
        ledger.history()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE champions SET policy = 'ab' WHERE generation = 1",
        "UPDATE champions SET approver = 'eve' WHERE generation = 2",
        "DELETE FROM champions WHERE generation = 1",
        "UPDATE decisions SET policies = 'a'",
    ],
)
def test_a_row_that_was_changed_is_seen(ledger: Ledger, change: str) -> None:
    ledger.promote("key-a", "aa", "policy/1", "report-a", expected_generation=0)
    ledger.promote("key-b", "bb", "policy/2", "report-b", expected_generation=1)
    ledger.record("d1", "new", ["b", "a"], "REJECT")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute(change)
    with pytest.raises(DataError, match=r"ledger\.db is damaged: a row of \w+ was changed\. Bring back a copy"):
        ledger.current()
