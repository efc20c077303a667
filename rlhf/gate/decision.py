"""From the checks of every policy to one decision. Whatever is unknown, missing or not finite is never PROMOTE."""

from collections.abc import Mapping, Sequence

from rlhf.config.gate import GateConfig
from rlhf.gate.checks import NAMES, run_checks
from rlhf.gate.checks.quality import measured_win_rate
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable
from rlhf.gate.records import Candidate, Check, Decision, Verdict, WinRate

NAMED = 8  # checks that the decision's sentence names of one policy


def assess(evidence: Evidence, config: GateConfig) -> Candidate:
    """Make every check of one policy and give the verdict."""
    try:
        rate = measured_win_rate(evidence, config, "sft")
    except (Unusable, Unmeasured):  # the checks of quality say why
        rate = None
    checks = run_checks(evidence, config)
    return candidate(evidence.algorithm, evidence.policy_digest, checks, rate)


def candidate(algorithm: str, policy: str, checks: Sequence[Check], win_rate: WinRate | None) -> Candidate:
    """The verdict on one policy, `policy` the digest of its files. An empty list of checks, or one that lacks a check,
    is ERROR."""
    return Candidate(algorithm, policy, _verdict(checks, win_rate), win_rate, tuple(checks))


def decide(candidates: Sequence[Candidate], judge: str | None, champion: str | None, generation: int) -> Decision:
    """Promote the passing policy whose win rate has the highest lower bound; without one, say what is in the way.

    `champion` is the digest of the policy in use that they were compared with, None before the first; `generation` its
    place in the ledger.
    """
    if candidates and judge not in JUDGES:
        said = "Nothing can be judged: the evaluations name no judge that is known, or not the same one."
        return Decision("ERROR", said, None, judge, tuple(candidates), champion, generation)
    passing = {c.algorithm: c.win_rate for c in candidates if c.decision == "PROMOTE"}
    bounds = {name: rate.low for name, rate in passing.items() if rate is not None}
    if bounds:
        winner = max(bounds, key=lambda name: bounds[name])
        sentence = _promotion(candidates, winner, judge)
        return Decision("PROMOTE", sentence, winner, judge, tuple(candidates), champion, generation)
    verdicts = {c.decision for c in candidates}
    order: tuple[Verdict, ...] = ("ERROR", "INCONCLUSIVE", "REJECT")
    decision: Verdict = next((verdict for verdict in order if verdict in verdicts), "ERROR")
    return Decision(decision, _refusal(candidates, decision), None, judge, tuple(candidates), champion, generation)


def _verdict(checks: Sequence[Check], win_rate: WinRate | None) -> Verdict:
    if [check.name for check in checks] != list(NAMES) or any(check.outcome == "error" for check in checks):
        return "ERROR"
    if any(check.stops and check.outcome == "fail" for check in checks):
        return "REJECT"
    if any(check.stops for check in checks):
        return "INCONCLUSIVE"
    return "ERROR" if win_rate is None else "PROMOTE"


JUDGES: Mapping[str | None, str] = {
    "gold": "judged by the world's gold reward, which no stage trained on",
    "reward": "judged by the reward model that training raised, not by a person",
    "referee": "judged by a reward model that training never saw, not by a person",
    "endpoint": "judged by a language model, not by a person",
    "people": "judged by people",
}


def _promotion(candidates: Sequence[Candidate], winner: str, judge: str | None) -> str:
    chosen = next(c for c in candidates if c.algorithm == winner)
    rate = chosen.win_rate
    assert rate is not None, "a candidate without a win rate is never promoted"
    warnings = [check.name for check in chosen.checks if not check.passed]
    return (
        f"Promote {winner}: it has {rate.value:.1%} of {rate.wins + rate.ties + rate.losses} prompts against SFT "
        f"({rate.low:.1%} to {rate.high:.1%}), {JUDGES[judge]}, and "
        + (f"nothing stands against it; noted: {', '.join(warnings)}." if warnings else "it passes every check.")
    )


def _refusal(candidates: Sequence[Candidate], decision: Verdict) -> str:
    if not candidates:
        return "Nothing can be promoted: there is no candidate."
    opening = {"ERROR": "Nothing can be judged", "INCONCLUSIVE": "Not enough is known to promote"}
    stopped: dict[str, list[str]] = {}
    for one in candidates:
        stopped.setdefault(_obstacle(one), []).append(one.algorithm)
    parts = [f"{'each of ' * (len(names) > 1)}{', '.join(names)} {clause}" for clause, names in stopped.items()]
    return f"{opening.get(decision, 'No policy is good enough')}: {'; '.join(parts)}."


def _obstacle(candidate: Candidate) -> str:
    """Why a policy is not promoted, in a clause."""
    present = {check.name for check in candidate.checks}
    if absent := [name for name in NAMES if name not in present]:
        return f"lacks the checks {_some(absent)}"
    for outcome, clause in (("error", "could not be checked"), ("fail", "fails"), ("undecided", "leaves open")):
        named = [check for check in candidate.checks if check.outcome == outcome and check.stops]
        if named:
            needed = max((check.needed or 0 for check in named), default=0)
            settle = f" (about {needed:,} prompts would settle it)" if needed and outcome == "undecided" else ""
            return f"{clause} {_some([check.name for check in named])}{settle}"
    named = [check for check in candidate.checks if check.stops]
    return f"was not measured on {_some([check.name for check in named])}" if named else "has unknown checks"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are: the report has all."""
    return ", ".join([*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])])
