"""reports/gate.html: why the gate decided what it did, for a person who has five minutes.

It is made from the decision as it is written, whose digest it states: page and decision cannot speak of different runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.gate.records import Candidate, Check
from rlhf.report import picture
from rlhf.report.examples import Example, by_gain, by_rule, evaluation_rows
from rlhf.report.page import page
from rlhf.report.summary import foremost
from rlhf.tracking.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the page tells of one candidate."""

    candidate: Candidate
    opponent: str  # whose answers stand beside its own: "champion", or "sft" before the first
    prompts: int
    better: Sequence[Example]
    worse: Sequence[Example]
    chosen: Sequence[Example]  # by a rule that looks at no score

    @property
    def stopping(self) -> list[Check]:
        """What is in the way of a promotion: first what fails, then what is open."""
        order = ("error", "fail", "undecided", "unmeasured")
        found = (check for check in self.candidate.checks if check.stops)
        return sorted(found, key=lambda check: order.index(check.outcome))

    @property
    def noted(self) -> list[Check]:
        """What does not pass and yet stops nothing."""
        return [check for check in self.candidate.checks if not check.passed and not check.stops]


def render_gate(workspace: Path, decided: Standing) -> str:
    """The page, from the decision as it was read and the rows of the evaluations.

    Raises DataError for rows that are missing. The same inputs give the same bytes.
    """
    decision = decided.said
    first = foremost(decision)
    candidates = sorted(decision.candidates, key=lambda candidate: candidate.algorithm != first)
    return page(
        "gate.html.j2",
        figures=[],
        decision=decision,
        digest=decided.digest,
        stories=[story(workspace, candidate, decision.judge) for candidate in candidates],
        picture=picture,
    )


def story(workspace: Path, candidate: Candidate, judge: str | None) -> Story:
    """What the rows of a candidate's evaluation and its checks tell."""
    name, rows = candidate.algorithm, evaluation_rows(workspace, candidate.algorithm)
    opponent = "champion" if rows and "champion_response" in rows[0] else "sft"
    better, worse = by_gain(rows, name, opponent, judge)
    return Story(
        candidate=candidate,
        opponent=opponent,
        prompts=len(rows),
        better=better,
        worse=worse,
        chosen=by_rule(rows, name, opponent),
    )
