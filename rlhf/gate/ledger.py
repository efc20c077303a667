"""Promotion ledger: which policy is the champion, by generation, changed by compare-and-swap only.

The ledger is the truth and the MLflow alias `champion` its mirror: MLflow sets an alias without looking at what it was,
so two promoters who read the same champion would overwrite each other. Here each change names the generation that it
was decided on, and loses if another came first. History is linear, never rewritten: a rollback is one more generation.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import Busy, GateRefused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS champions (
    generation INTEGER PRIMARY KEY CHECK (generation > 0),
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
    candidate_key TEXT NOT NULL,
    version TEXT NOT NULL,
    report_digest TEXT NOT NULL,
    approver TEXT NOT NULL,
    time REAL NOT NULL
)
"""


@dataclass(frozen=True)
class Champion:
    """One generation: the policy in use since `time` (seconds since 1970), by stage key."""

    generation: int
    action: str  # promote or rollback
    candidate_key: str
    version: str  # registered version when it was promoted; "" when no registry could be reached
    report_digest: str  # sha256 of the gate's decision it rests on
    approver: str
    time: float


class Ledger:
    """The ledger in the SQLite file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        """What `rollback` would bring back: the champion of the generation before the current one."""
        return next(iter(self.history()[-2:-1]), None)

    def promote(
        self, candidate_key: str, version: str, report_digest: str, expected_generation: int, approver: str = ""
    ) -> Champion:
        """Make the candidate champion if the generation is still the expected one (0 before the first promotion).

        Raises Busy when another promotion came first.
        """
        return self._swap("promote", candidate_key, version, report_digest, expected_generation, approver)

    def rollback(self, expected_generation: int, approver: str = "") -> Champion:
        """Make the champion of the generation before the current one champion again, as a new generation.

        Raises GateRefused when there is none, Busy when another promotion came first.
        """
        history = self.history()
        if len(history) < 2:
            raise GateRefused(
                f"There is no earlier champion to go back to: {self.path} holds {len(history)} generations"
            )
        earlier = history[-2]
        return self._swap(
            "rollback", earlier.candidate_key, earlier.version, earlier.report_digest, expected_generation, approver
        )

    def _swap(self, action: str, key: str, version: str, report: str, expected: int, approver: str) -> Champion:
        with self._transaction("IMMEDIATE") as connection:
            (found,) = connection.execute("SELECT COALESCE(MAX(generation), 0) FROM champions").fetchone()
            if found != expected:
                raise Busy(
                    f"Another promotion came first: the champion is of generation {found}, this {action} was decided "
                    f"on generation {expected}. Look at `rlhf status`, evaluate again if need be, and promote again"
                )
            champion = Champion(found + 1, action, key, version, report, approver, time.time())
            connection.execute("INSERT INTO champions VALUES (?, ?, ?, ?, ?, ?, ?)", tuple(vars(champion).values()))
            return champion

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=10.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
            connection.execute(f"BEGIN {kind}")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
