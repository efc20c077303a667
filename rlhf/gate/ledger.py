"""Promotion ledger: which policy is the champion, by generation, changed by compare-and-swap only.

The ledger is the truth and the MLflow alias `champion` its mirror: MLflow sets an alias without looking at what it was,
so two promoters who read the same champion would overwrite each other. Here each change names the generation that it
was decided on, and loses if another came first. History is linear, never rewritten: a rollback is one more generation.

Beside it stands every decision of the gate, so that it is known how often a test set has been looked at.

SQLite survives a crash, and does not notice a flipped bit in a row. So each row carries a seal, the SHA-256 of its
values, that of a generation also of the seal before it; whoever opens the ledger checks them all first.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlhf import durable
from rlhf.errors import Busy, ConfigError, DataError, DiskFull, GateRefused, UserError
from rlhf.failpoints import reach
from rlhf.gate import looks

LEDGER = ".rlhf/ledger.db"  # in a workspace
VERSION = 1  # of the tables, SQLite's user_version
PATIENCE = 10.0  # seconds that another process may hold the ledger
ANEW = (
    "Bring back a copy of it. Without one, move it away, and take the alias champion from the policy in MLflow: then "
    "the next promotion begins a new one"
)
_SCHEMA = (
    """CREATE TABLE champions (
        generation INTEGER PRIMARY KEY CHECK (generation > 0),
        action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
        candidate_key TEXT NOT NULL,
        policy TEXT NOT NULL,
        version TEXT NOT NULL,
        report_digest TEXT NOT NULL,
        approver TEXT NOT NULL,
        time REAL NOT NULL,
        seal TEXT NOT NULL
    )""",
    """CREATE TABLE decisions (
        digest TEXT PRIMARY KEY,
        test_set TEXT NOT NULL,
        verdict TEXT NOT NULL,
        policies TEXT NOT NULL,
        time REAL NOT NULL,
        seal TEXT NOT NULL
    )""",
    f"PRAGMA user_version = {VERSION}",
)
_TABLES = ("champions", "decisions")


@dataclass(frozen=True)
class Champion:
    """One generation: the policy in use since `time` (seconds since 1970), by stage key and by its bytes."""

    generation: int
    action: str  # promote or rollback
    candidate_key: str
    policy: str  # digest of its files
    version: str  # registered version when it was promoted
    report_digest: str  # sha256 of the gate's decision it rests on
    approver: str
    time: float


def previous(history: Sequence[Champion]) -> Champion | None:
    """Of every generation, the newest before the last whose policy is another one and was not rolled back."""
    gone = rolled_back(history)
    return next((c for c in reversed(history) if c.policy != history[-1].policy and c.policy not in gone), None)


def rolled_back(history: Iterable[Champion]) -> set[str]:
    """Digests of the policies that a rollback took out of use, and that nobody has promoted since."""
    gone = set[str]()
    for before, after in pairwise(history):
        gone = gone | {before.policy} if after.action == "rollback" else gone - {after.policy}
    return gone


class Ledger:
    """The ledger in the SQLite file `path`.

    Every method raises DataError for a file that is damaged, no ledger, or one of a later version; Busy when another
    process holds it; DiskFull and ConfigError for a disk that does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, workspace: Path) -> "Ledger":
        """The ledger of a workspace."""
        return cls(workspace / LEDGER)

    def current(self) -> Champion | None:
        """The champion, or None before the first promotion."""
        return next(iter(self.history()[-1:]), None)

    def history(self) -> list[Champion]:
        """Every generation, the first one first."""
        if not self.path.exists():
            return []
        with self._transaction("DEFERRED") as connection:
            return [Champion(*row[:-1]) for row in _rows(connection, "champions")]

    def previous(self) -> Champion | None:
        """What `rollback` would bring back: the newest champion before the current one that was not rolled back."""
        return previous(self.history())

    def promote(
        self,
        candidate_key: str,
        policy: str,
        version: str,
        report_digest: str,
        expected_generation: int,
        approver: str = "",
    ) -> Champion:
        """Make the candidate champion if the generation is still the expected one (0 before the first promotion).

        Raises Busy when another promotion came first.
        """
        return self._swap("promote", candidate_key, policy, version, report_digest, expected_generation, approver)

    def rollback(self, expected_generation: int, approver: str = "") -> Champion:
        """Make the newest earlier champion that was not rolled back champion again, as a new generation.

        Raises GateRefused when there is none, Busy when another promotion came first.
        """
        earlier = self.previous()
        if earlier is None:
            raise GateRefused(
                f"There is no earlier champion to go back to: {self.path} holds {len(self.history())} generations"
            )
        taken = (earlier.candidate_key, earlier.policy, earlier.version, earlier.report_digest)
        return self._swap("rollback", *taken, expected_generation, approver)

    def record(self, digest: str, test_set: str, taken: Collection[str], verdict: str) -> None:
        """Note a decision of the gate, by the digest of decision.json, the name of the prompts that it was made on, and
        the looks at them (gate/looks.py). The same decision again changes nothing."""
        with self._transaction("IMMEDIATE") as connection:
            row = (digest, test_set, verdict, " ".join(sorted(taken)), time.time())
            connection.execute("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?, ?, ?)", (*row, _seal(row)))

    def judged(self) -> list[looks.Run]:
        """The looks at test sets, in the order of the decisions in which they were new."""
        if not self.path.exists():
            return []
        with self._transaction("DEFERRED") as connection:
            rows = connection.execute("SELECT test_set, policies FROM decisions ORDER BY rowid").fetchall()
        return looks.in_order({"test_set": test_set, "looks": policies.split()} for test_set, policies in rows)

    def _swap(
        self, action: str, key: str, policy: str, version: str, report: str, expected: int, approver: str
    ) -> Champion:
        with self._transaction("IMMEDIATE") as connection:
            last = next(iter(_rows(connection, "champions")[-1:]), (0, ""))
            if (found := last[0]) != expected:
                raise Busy(
                    f"Another promotion came first: the champion is of generation {found}, this {action} was decided "
                    f"on generation {expected}. Run `rlhf run` again: it compares with the champion in use"
                )
            champion = Champion(found + 1, action, key, policy, version, report, approver, time.time())
            row = tuple(vars(champion).values())
            connection.execute("INSERT INTO champions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, _seal(row, last[-1])))
            reach("champion inserted")
        reach("champion committed")
        return champion

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """A transaction on a ledger that has been checked."""
        try:
            if not self.path.exists():
                self._create()
            with closing(_connect(self.path)) as connection:
                self._open(connection)
                connection.execute(f"BEGIN {kind}")
                try:
                    self._check(connection)
                    yield connection
                except BaseException:
                    if connection.in_transaction:  # SQLite itself rolls back where the disk is full
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise _in_words(error, self.path) from None

    def _create(self) -> None:
        """An empty ledger, which appears with its tables or not at all: a file without them is a damaged one."""
        durable.make_private(self.path.parent)
        with open(self.path.with_suffix(".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another may be making it
            if self.path.exists():
                return
            own = durable.partial(self.path)
            for left in self.path.parent.glob(f"{own.name}*"):  # by one that was killed, with SQLite's journal
                left.unlink()
            try:
                with closing(_connect(own)) as connection, connection:
                    for statement in ("BEGIN", *_SCHEMA):
                        connection.execute(statement)
                os.replace(own, self.path)
            finally:
                own.unlink(missing_ok=True)
        durable.sync_directory(self.path.parent)

    def _open(self, connection: sqlite3.Connection) -> None:
        """Refuse a ledger of a later version, and what is none."""
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        columns = [row[1] for row in connection.execute("PRAGMA table_info(champions)")]
        if version > VERSION:
            raise DataError(
                f"{self.path} is a ledger of version {version}, and this rlhf knows {VERSION}. Use the rlhf that wrote "
                "it, or a later one"
            )
        if columns != [*(field.name for field in fields(Champion)), "seal"]:
            raise DataError(f"{self.path} is not a ledger that this rlhf reads. {ANEW}")

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raises DataError for a ledger whose pages, rows or order are not as they were written."""
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        if found == ["ok"]:
            rows = {table: _rows(connection, table) for table in _TABLES}
            changed = [table for table in _TABLES if [row[-1] for row in rows[table]] != _seals(table, rows[table])]
            found = [f"a row of {table} was changed" for table in changed]
        if found:
            raise DataError(f"{self.path} is damaged: {found[0]}. {ANEW}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    connection.set_trace_callback(lambda statement: reach(f"ledger {statement.split()[0].lower()}"))
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _rows(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """All rows of a table, by its first column, each with its seal at the end."""
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def _seals(table: str, rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """What the seals of all rows must be."""
    found = list[str]()
    for row in rows:
        found.append(_seal(row[:-1], found[-1] if found and table == "champions" else ""))
    return found


def _seal(row: tuple[Any, ...], before: str = "") -> str:
    return hashlib.sha256(json.dumps([before, *row]).encode()).hexdigest()


def _in_words(error: sqlite3.DatabaseError, path: Path) -> UserError | sqlite3.DatabaseError:
    """What SQLite says, for people; the error itself where it is a fault of the program."""
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:  # the rest is a detail
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Busy(f"{path} is in use by another process ({error}). Try again, or see who holds it")
        case sqlite3.SQLITE_FULL:
            return DiskFull(f"No space is left for {path}: nothing was changed. Make room and run this again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DataError(f"{path} is not a ledger, or is damaged ({error}). {ANEW}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PERM:
            return ConfigError(f"{path} cannot be used ({error}). See to its disk and to who may write there")
        case _:
            return error
