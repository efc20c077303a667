"""The policy answers at all: numbers that exist, answers that end and hold text."""

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, column, count, judged, not_finite, number
from rlhf.gate.findings import against, fact
from rlhf.gate.records import Check
from rlhf.gate.statistics import binomial_interval


def prompts(evidence: Evidence, config: GateConfig) -> Check:
    """Enough prompts to say anything."""
    n = len(judged(evidence, "sft"))
    enough = n >= config.limits.min_prompts
    reason = f"{n} prompts, of at least {config.limits.min_prompts}"
    return Check(
        outcome="pass" if enough else "undecided",
        reason=reason,
        value=float(n),
        n=n,
        threshold=float(config.limits.min_prompts),
        needed=None if enough else config.limits.min_prompts,
    )


def finite_numbers(evidence: Evidence, config: GateConfig) -> Check:
    """No number of the evaluation or of the reward models' reports is NaN or infinite."""
    bad = not_finite(evidence.evaluation) + not_finite(evidence.reward)
    for name in ("policy_reward", "sft_reward", "kl", "policy_length", "sft_length"):
        column(evidence.rows, name)
    return fact(not bad, "every number is finite", f"not finite: {', '.join(bad)}")


def terminated(evidence: Evidence, config: GateConfig) -> Check:
    """Answers end by themselves and are not cut at the longest length."""
    ended = column(evidence.rows, "policy_terminated")
    interval = binomial_interval(int(ended.sum()), len(ended), confidence=config.confidence)
    return against(
        interval, config.limits.min_terminated, config, "answers that end by themselves", ".1%", at_least=True
    )


def empty(evidence: Evidence, config: GateConfig) -> Check:
    """Answers hold text."""
    prompts = int(number(evidence.evaluation, "prompts"))
    interval = binomial_interval(
        count(evidence.evaluation, "empty", "policy", prompts), prompts, confidence=config.confidence
    )
    return against(interval, config.limits.max_empty, config, "empty answers", ".1%", at_least=False)
