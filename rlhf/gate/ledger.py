"""Promotion ledger: which policy is the champion, by generation, changed by compare-and-swap only.

The ledger is the truth and the MLflow alias `champion` its mirror: MLflow sets an alias without looking at what it was,
so two promoters who read the same champion would overwrite each other. Here each change names the generation that it
was decided on, and loses if another came first. History is linear, never rewritten: a rollback is one more generation.

Beside it stands every decision of the gate, so that it is known how often a test set has been looked at.
"""

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

from rlhf import durable
from rlhf.errors import Busy, DataError, GateRefused
from rlhf.failpoints import reach

LEDGER = ".rlhf/ledger.db"  # in a workspace
_SCHEMA = """
CREATE TABLE IF NOT EXISTS champions (
    generation INTEGER PRIMARY KEY CHECK (generation > 0),
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
    candidate_key TEXT NOT NULL,
    policy TEXT NOT NULL,
    version TEXT NOT NULL,
    report_digest TEXT NOT NULL,
    approver TEXT NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS decisions (
    digest TEXT PRIMARY KEY,
    test_set TEXT NOT NULL,
    verdict TEXT NOT NULL,
    policies TEXT NOT NULL,
    time REAL NOT NULL
);
"""


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


class Ledger:
    """The ledger in the SQLite file `path`. Raises DataError for a file that is no ledger, or an older one."""

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
            return [Champion(*row) for row in connection.execute("SELECT * FROM champions ORDER BY generation")]

    def previous(self) -> Champion | None:
        """What `rollback` would bring back: the newest champion before the current one that was not rolled back."""
        history, gone = self.history(), self.rolled_back()
        return next((c for c in reversed(history) if c.policy != history[-1].policy and c.policy not in gone), None)

    def rolled_back(self) -> set[str]:
        """Digests of the policies that a rollback took out of use, and that nobody has promoted since."""
        gone = set[str]()
        for before, after in pairwise(self.history()):
            gone = gone | {before.policy} if after.action == "rollback" else gone - {after.policy}
        return gone

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

    def record(self, digest: str, test_set: str, policies: Collection[str], verdict: str) -> None:
        """Note a decision of the gate, by the digest of decision.json, the digest of the prompts that it was made on,
        and the policies that it was about. The same decision again changes nothing."""
        with self._transaction("IMMEDIATE") as connection:
            row = (digest, test_set, verdict, " ".join(sorted(policies)), time.time())
            connection.execute("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?, ?)", row)

    def judged(self) -> dict[str, list[str]]:
        """The policies that were judged on each test set, by digest."""
        found: dict[str, set[str]] = {}
        if self.path.exists():
            with self._transaction("DEFERRED") as connection:
                for test_set, policies in connection.execute("SELECT test_set, policies FROM decisions"):
                    found.setdefault(test_set, set()).update(policies.split())
        return {test_set: sorted(policies) for test_set, policies in sorted(found.items())}

    def _swap(
        self, action: str, key: str, policy: str, version: str, report: str, expected: int, approver: str
    ) -> Champion:
        with self._transaction("IMMEDIATE") as connection:
            (found,) = connection.execute("SELECT COALESCE(MAX(generation), 0) FROM champions").fetchone()
            if found != expected:
                raise Busy(
                    f"Another promotion came first: the champion is of generation {found}, this {action} was decided "
                    f"on generation {expected}. Run `rlhf run` again: it compares with the champion in use"
                )
            champion = Champion(found + 1, action, key, policy, version, report, approver, time.time())
            connection.execute("INSERT INTO champions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(vars(champion).values()))
            reach("champion inserted")
        reach("champion committed")
        return champion

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        durable.make_private(self.path.parent)
        with closing(sqlite3.connect(self.path, timeout=10.0, isolation_level=None)) as connection:
            self._prepare(connection)
            try:
                connection.execute(f"BEGIN {kind}")
            except sqlite3.OperationalError as error:
                raise Busy(f"{self.path} is in use ({error}). Try again") from None
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables that are not there, and see that those that are have our columns."""
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            columns = [row[1] for row in connection.execute("PRAGMA table_info(champions)")]
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise Busy(f"{self.path} cannot be opened now ({error}). Try again, or see who holds it") from None
            columns = []
        if columns != [field.name for field in fields(Champion)]:
            raise DataError(
                f"{self.path} is not a ledger that this version of rlhf reads. Move it away, and take the alias "
                "champion from the policy in MLflow: then the next promotion begins a new one"
            )
