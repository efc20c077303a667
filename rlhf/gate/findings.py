"""How a number becomes the outcome of a check: three ways to compare, one sentence each."""

from collections.abc import Sequence
from typing import Any

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, prompt_ids
from rlhf.gate.records import Check, Interval, Outcome
from rlhf.gate.statistics import resampling, settling_size

FEW = 20  # prompts or pairs: an interval of fewer says nothing
OPPONENTS = {"sft": "SFT", "champion": "the champion"}


def fact(holds: bool, yes: str, no: str) -> Check:
    """A check of something that is so or not."""
    return Check(outcome="pass" if holds else "fail", reason=yes if holds else no)


def point(value: float, threshold: float, what: str, *, at_least: bool, warns: bool = False) -> Check:
    """A number for which nobody knows an interval."""
    holds = value >= threshold if at_least else value <= threshold
    return Check(
        outcome="pass" if holds else "fail",
        reason=f"{what} is {value:.3g}, must be at {'least' if at_least else 'most'} {threshold:.3g}",
        value=value,
        threshold=threshold,
        at_least=at_least,
        blocking=not warns,
    )


def against(
    interval: Interval,
    threshold: float,
    config: GateConfig,
    what: str,
    shown: str,
    *,
    at_least: bool,
    above: bool = False,
    confidence: float | None = None,
) -> Check:
    """An interval against a threshold; `above` demands more than the threshold, `shown` formats the numbers."""
    good, bad = (interval.low, interval.high) if at_least else (-interval.high, -interval.low)
    line = threshold if at_least else -threshold
    holds = good > line if above else good >= line
    enough = interval.n >= FEW
    outcome: Outcome = "undecided" if not enough else "pass" if holds else "fail" if bad < line else "undecided"
    confidence = confidence or config.confidence
    bound = interval.low if at_least else interval.high
    needed = None
    if not enough:
        needed = FEW
    elif outcome == "undecided":
        needed = settling_size(interval, threshold, bound, confidence=confidence, power=config.power)
    demand = f"the whole interval must be {'above' if above else 'at least' if at_least else 'at most'}"
    few = "" if enough else f", and it takes {FEW} to tell"
    return Check(
        outcome=outcome,
        reason=f"{what} is {interval.value:{shown}} ({interval.low:{shown}} to {interval.high:{shown}}, "
        f"n = {interval.n}{few}), {demand} {threshold:{shown}}",
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        threshold=threshold,
        at_least=at_least,
        needed=needed,
    )


def worst(found: Sequence[Check]) -> Check:
    """Of one check that was made beside several others, in the same units, how it came out where it is worst."""

    def room(check: Check) -> float:
        assert check.value is not None
        assert check.threshold is not None
        return check.value - check.threshold if check.at_least else check.threshold - check.value

    return min(found, key=lambda check: (("fail", "undecided", "pass").index(check.outcome), room(check)))


def opponents(evidence: Evidence) -> list[tuple[str, str]]:
    """Whom the policy stands beside, as columns and as sentences name them: SFT, and the champion if there is one."""
    return [(side, name) for side, name in OPPONENTS.items() if side == "sft" or evidence.champion is not None]


def by_row(evidence: Evidence, config: GateConfig, confidence: float | None = None) -> dict[str, Any]:
    """Settings of a bootstrap by row, of a table that has one row of each prompt or document."""
    return resampling(config, evidence.seed, confidence)


def by_prompt(evidence: Evidence, config: GateConfig, confidence: float | None = None) -> dict[str, Any]:
    """Settings of a bootstrap by prompt."""
    return {**by_row(evidence, config, confidence), "clusters": prompt_ids(evidence)}
