"""What the gate says: an interval, a check, a candidate's verdict, the decision. Plain data, to and from JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

DECISION = "reports/gate/decision.json"  # of a workspace
FORMAT = 1  # of decision.json
Verdict = Literal["PROMOTE", "REJECT", "INCONCLUSIVE", "ERROR"]
# pass, fail: the whole interval lies on one side of the threshold. undecided: it holds the threshold.
# unmeasured: nobody could measure it here. error: it should be there, and is missing or not a finite number.
Outcome = Literal["pass", "fail", "undecided", "unmeasured", "error"]


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` prompts, with the ends of its interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class WinRate:
    """Share of prompts on which the policy's answer is better, a tie counting one half: (wins + ties / 2) / n."""

    value: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Part(Interval):
    """What a check found in one part of the evaluation, such as a use case."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a policy must be. Numbers are None where there is none; never NaN or infinite."""

    outcome: Outcome
    reason: str  # what was found, what it had to be
    name: str = ""  # these two are filled in from the list of checks
    group: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    threshold: float | None = None
    at_least: bool = True  # the value must not be below the threshold; False: not above it
    blocking: bool = True  # False: a warning, which never stops a promotion
    needed: int | None = None  # prompts that would settle an undecided check
    parts: tuple[Part, ...] = ()  # of a check that looks at several

    @property
    def passed(self) -> bool:
        """Whether the policy is what it must be, beyond doubt."""
        return self.outcome == "pass"

    @property
    def stops(self) -> bool:
        """Whether a policy with this check as it is must not be promoted."""
        return self.blocking and not self.passed


@dataclass(frozen=True)
class Candidate:
    """The verdict on one policy and every check behind it."""

    algorithm: str
    policy: str  # the digest of its files
    decision: Verdict
    win_rate: WinRate | None  # against SFT
    checks: tuple[Check, ...]

    @property
    def groups(self) -> dict[str, list[Check]]:
        """Checks under their group, in their order."""
        groups: dict[str, list[Check]] = {}
        for check in self.checks:
            groups.setdefault(check.group, []).append(check)
        return groups


@dataclass(frozen=True)
class Decision:
    """The verdict of the gate. Only PROMOTE allows a promotion: of its winner, in place of this champion."""

    decision: Verdict
    sentence: str
    winner: str | None
    judge: str | None
    candidates: tuple[Candidate, ...]
    champion: str | None  # the digest of the policy that the winner would replace; None before the first
    generation: int  # of that champion in the ledger; 0 before the first
    profile: str = ""  # of the limits
    test_set: str = ""  # name of the set that the candidates were judged on (gate/looks.py); "" where they differ
    looks: tuple[str, ...] = ()  # at that set, one a candidate
    inputs: Mapping[str, str] = field(default_factory=dict)  # what it rests on: digests by path

    @property
    def policy(self) -> str:
        """The digest of the winner's files; "" without a winner."""
        return next((c.policy for c in self.candidates if c.algorithm == self.winner), "")

    def to_json(self) -> dict[str, Any]:
        """As reports/gate/decision.json holds it: dicts with numeric leaves, which `dvc metrics show` prints."""
        return {
            "format": FORMAT,
            "decision": self.decision,
            "sentence": self.sentence,
            "winner": self.winner,
            "judge": self.judge,
            "champion": self.champion,
            "generation": self.generation,
            "profile": self.profile,
            "test_set": self.test_set,
            "looks": list(self.looks),
            "inputs": dict(self.inputs),
            "algorithms": [c.algorithm for c in self.candidates],
            "candidates": {c.algorithm: _candidate_to_json(c) for c in self.candidates},
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Decision":
        """The inverse of `to_json`."""
        candidates = (_candidate_from_json(name, raw["candidates"][name]) for name in raw["algorithms"])
        return Decision(
            raw["decision"],
            raw["sentence"],
            raw["winner"],
            raw["judge"],
            tuple(candidates),
            raw["champion"],
            raw["generation"],
            raw["profile"],
            raw["test_set"],
            tuple(raw["looks"]),
            raw["inputs"],
        )


def finite(value: Any) -> float | None:
    """`value` as a float if it is a finite number (a bool or a string is none), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "policy": candidate.policy,
        "decision": candidate.decision,
        "win_rate": None if candidate.win_rate is None else asdict(candidate.win_rate),
        "passed": sum(check.passed for check in candidate.checks),
        "stopping": sum(check.stops for check in candidate.checks),
        "checks": [{**asdict(check), "passed": check.passed} for check in candidate.checks],
    }


def _candidate_from_json(algorithm: str, raw: Mapping[str, Any]) -> Candidate:
    checks = tuple(_check_from_json(check) for check in raw["checks"])
    win_rate = None if raw["win_rate"] is None else WinRate(**raw["win_rate"])
    return Candidate(algorithm, raw["policy"], raw["decision"], win_rate, checks)


def _check_from_json(raw: Mapping[str, Any]) -> Check:
    fields = {name: value for name, value in raw.items() if name not in ("passed", "parts")}
    return Check(**fields, parts=tuple(Part(**part) for part in raw["parts"]))
