"""The policy answers where it is served, as it did where it was evaluated, and costs no more than the champion."""

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, number
from rlhf.gate.findings import fact, point
from rlhf.gate.records import Check


def serves(evidence: Evidence, config: GateConfig) -> Check:
    """A fresh process loaded the policy's files by transformers alone and answered every prompt."""
    prompts = number(evidence.evaluation, "serving", "prompts")
    yes = f"a fresh process loaded the files and answered {prompts:.0f} prompts"
    return fact(_served(evidence), yes, f"could not be served: {evidence.evaluation['serving'].get('reason')}")


def parity(evidence: Evidence, config: GateConfig) -> Check:
    """It answered greedily with the tokens that the model gives where it is evaluated."""
    same, prompts = (number(evidence.evaluation, "serving", name) for name in ("same", "prompts"))
    return Check(
        outcome="pass" if same == prompts > 0 else "fail",
        reason=f"{same:.0f} of {prompts:.0f} served answers are those of the evaluated model, must be all",
        value=same,
        n=int(prompts),
        threshold=prompts,
    )


def serving_cost(evidence: Evidence, config: GateConfig) -> Check:
    """95 of 100 answers come as fast as the champion's, in as much memory, within the limit. A warning in the small
    profile: there an answer takes some hundredths of a second."""
    warns = config.profile == "small"
    if evidence.champion is None:
        return Check(outcome="pass", reason="there is no champion yet to compare with", blocking=not warns)
    try:
        ratios = {name: _ratio(evidence, name) for name in ("latency_p95", "peak_memory")}
    except Unmeasured as error:  # one of them could not be served
        return Check(outcome="unmeasured", reason=str(error), blocking=not warns)
    worst = max(ratios, key=lambda name: ratios[name])
    what = f"{worst} over the champion's"
    return point(ratios[worst], config.limits.max_serving_cost, what, at_least=False, warns=warns)


CHECKS = (
    serves,
    parity,
    serving_cost,
)


def _served(evidence: Evidence) -> bool:
    number(evidence.evaluation, "serving", "prompts")
    served = evidence.evaluation["serving"].get("served")
    if not isinstance(served, bool):
        raise Unusable(f"serving.served is {served!r}, neither true nor false")
    return served


def _ratio(evidence: Evidence, name: str) -> float:
    ours, theirs = (number(evidence.evaluation, "serving", *side, "cost", name) for side in ((), ("champion",)))
    if theirs <= 0:
        raise Unusable(f"serving.champion.cost.{name} is {theirs:.6g}")
    return ours / theirs
