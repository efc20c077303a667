"""The judge is one: what it says of two answers does not depend on their places, and people would say it too."""

from typing import Any

import numpy as np

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, interval, number, numbers
from rlhf.gate.findings import against, by_row, fact, opponents
from rlhf.gate.records import Check, Interval
from rlhf.gate.statistics import binomial_interval, bootstrap_mean


def judge_complete(evidence: Evidence, config: GateConfig) -> Check:
    """Nearly every comparison has a verdict, with each opponent. Those that have none count as lost."""
    absent = {name: np.isnan(numbers(evidence.rows, f"points_{side}")) for side, name in opponents(evidence)}
    most = max(absent, key=lambda name: absent[name].mean())
    nulls, n = int(absent[most].sum()), len(absent[most])
    if evidence.evaluation.get("judge") == "people":
        waiting = sum(int(one.sum()) for one in absent.values())
        return Check(
            outcome="undecided" if waiting else "pass",
            reason=f"{waiting} of {n * len(absent)} comparisons wait for people (rlhf judge export)",
            value=nulls / n,
            n=n,
            threshold=0.0,
            at_least=False,
            needed=nulls or None,
        )
    found = binomial_interval(nulls, n, confidence=config.confidence)
    what = f"comparisons with {most} that have no verdict"
    return against(found, config.limits.max_unjudged, config, what, ".1%", at_least=False)


def judge_consistent(evidence: Evidence, config: GateConfig) -> Check:
    """The judge says the same in both orders, and does not lean to the answer that is shown first or second."""
    asked, limits = _judging(evidence).get("asked"), config.limits
    if asked == "alone":
        return fact(True, "it scores answers one by one, so that no order can matter", "")
    if asked not in ("both orders", "one order"):
        raise Unusable(f"judging.asked is {asked!r}: neither alone, nor in one order, nor in both orders")
    lean = interval(evidence.evaluation, "judging", "primacy")
    ends = sorted((abs(lean.low), abs(lean.high)))
    size = Interval(abs(lean.value), 0.0 if lean.low <= 0.0 <= lean.high else ends[0], ends[1], lean.n)
    what = "share of verdicts for the answer shown first, from one half"
    found = [against(size, limits.max_judge_primacy, config, what, ".1%", at_least=False)]
    if asked == "both orders":
        same = interval(evidence.evaluation, "judging", "consistency")
        what = "comparisons judged the same in both orders"
        found.append(against(same, limits.min_judge_consistency, config, what, ".1%", at_least=True))
    worst = min(reversed(found), key=lambda check: ("fail", "undecided", "pass").index(check.outcome))
    if worst.passed and asked == "one order":
        raise Unmeasured("every comparison was asked once, in one order: nobody knows what the other would give")
    return worst


def judge_agrees(evidence: Evidence, config: GateConfig) -> Check:
    """The judge says what people said of pairs that they labelled; people say what others of them said."""
    pairs, least = int(number(evidence.evaluation, "judging", "agreement", "pairs")), config.limits.min_judge_pairs
    people = evidence.evaluation.get("judge") == "people"
    what = "agreement of annotators with each other" if people else "agreement with people on labelled pairs"
    if pairs < least and people:
        raise Unmeasured(f"{what} is known of {pairs} pairs only, of at least {least}")
    if pairs < least:
        return Check(outcome="undecided", reason=f"{what} is known of {pairs} pairs only, of at least {least}", n=pairs)
    found = interval(evidence.evaluation, "judging", "agreement")
    return against(found, config.limits.min_judge_agreement, config, what, ".1%", at_least=True)


def judge_a_a(evidence: Evidence, config: GateConfig) -> Check:
    """SFT against SFT, with other random numbers, is won half of the time."""
    counts = [int(number(evidence.evaluation, "judging", "a_a", name)) for name in ("wins", "ties", "losses")]
    if min(counts) < 0 or not sum(counts):
        raise Unusable(f"judging.a_a counts {counts} wins, ties and losses, which is no comparison")
    confidence, least = config.limits.judge_a_a_confidence, config.limits.min_judge_pairs
    found = bootstrap_mean(np.repeat([1.0, 0.5, 0.0], counts), **by_row(evidence, config, confidence))
    holds, enough = found.low <= 0.5 <= found.high, found.n >= least
    return Check(
        outcome="fail" if not holds else "pass" if enough else "undecided",
        reason=f"SFT has {found.value:.1%} against itself ({found.low:.1%} to {found.high:.1%}, n = {found.n}, of at "
        f"least {least}), the interval must hold 50.0%",
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
    )


CHECKS = (
    judge_complete,
    judge_consistent,
    judge_agrees,
    judge_a_a,
)


def _judging(evidence: Evidence) -> dict[str, Any]:
    judging = evidence.evaluation.get("judging")
    if not isinstance(judging, dict):
        raise Unusable("judging is missing from the report: nobody looked whether the judge is one")
    return judging
