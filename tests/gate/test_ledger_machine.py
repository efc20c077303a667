"""Any history of promoters and rollbacks that see old and new states leaves one line of champions."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rlhf.errors import Busy, GateRefused
from rlhf.gate.ledger import Ledger

WHO = st.sampled_from(["ada", "bob"])
POLICY = st.sampled_from(["p", "q", "r"])


class Promoters(RuleBasedStateMachine):
    """Two people with the ledger open. What they last saw may be old; the model is a list of (action, policy)."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "ledger.db"
        self.ledgers = {who: Ledger(path) for who in ("ada", "bob")}
        self.seen = dict.fromkeys(self.ledgers, 0)
        self.model: list[tuple[str, str]] = []

    @rule(who=WHO)
    def look(self, who: str) -> None:
        current = self.ledgers[who].current()
        self.seen[who] = current.generation if current else 0

    @rule(who=WHO, policy=POLICY)
    def promote(self, who: str, policy: str) -> None:
        if self.seen[who] != len(self.model):
            with pytest.raises(Busy, match="Another promotion came first"):
                self.ledgers[who].promote(f"key-{policy}", policy, "v", "d", self.seen[who], who)
            return
        made = self.ledgers[who].promote(f"key-{policy}", policy, "v", "d", self.seen[who], who)
        self.model.append(("promote", policy))
        assert made.generation == len(self.model)
        self.seen[who] = made.generation

    @rule(who=WHO)
    def roll_back(self, who: str) -> None:
        target = self.earlier()
        if target is None or self.seen[who] != len(self.model):
            with pytest.raises(GateRefused if target is None else Busy):
                self.ledgers[who].rollback(self.seen[who], who)
            return
        assert self.ledgers[who].rollback(self.seen[who], who).policy == target
        self.model.append(("rollback", target))
        self.seen[who] = len(self.model)

    @rule(who=WHO)
    def die_in_the_middle(self, who: str) -> None:
        """A transaction that is not committed leaves nothing."""
        ledger = self.ledgers[who]
        with suppress(ZeroDivisionError), ledger._transaction("IMMEDIATE") as connection:
            connection.execute("DELETE FROM champions")
            raise ZeroDivisionError

    def gone(self) -> set[str]:
        """Policies that a rollback took out of use and nobody promoted since."""
        gone: set[str] = set()
        for (_, before), (action, after) in zip(self.model, self.model[1:], strict=False):
            gone = gone | {before} if action == "rollback" else gone - {after}
        return gone

    def earlier(self) -> str | None:
        """What a rollback must bring back."""
        gone = self.gone()
        return next((p for _, p in reversed(self.model) if p != self.model[-1][1] and p not in gone), None)

    @invariant()
    def history_is_one_line(self) -> None:
        for ledger in self.ledgers.values():
            history = ledger.history()
            assert [champion.generation for champion in history] == list(range(1, len(self.model) + 1))
            assert [(champion.action, champion.policy) for champion in history] == self.model
            assert ledger.current() == (history[-1] if history else None)

    def teardown(self) -> None:
        self.directory.cleanup()


Promoters.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPromoters = Promoters.TestCase
