"""The policy answers at all: numbers that exist, answers that end and hold text."""

import numpy as np
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, column, not_finite, number, numbers, texts
from rlhf.gate.findings import against, by_row, fact, opponents, point, worst
from rlhf.gate.records import Check
from rlhf.gate.statistics import binomial_interval, bootstrap_mean, paired_difference


def prompts(evidence: Evidence, config: GateConfig) -> Check:
    """Enough prompts to say anything."""
    n = len(numbers(evidence.rows, "points_sft"))
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
    """No number of the evaluation, or of the reports of reward models, referee, data and alarms, is NaN or infinite."""
    reports = (evidence.evaluation, evidence.reward, evidence.referee, evidence.validation, evidence.screening)
    bad = [key for report in reports for key in not_finite(report)]
    for name in ("policy_reward", "sft_reward", "kl", "policy_length", "sft_length"):
        column(evidence.rows, name)
    return fact(not bad, "every number is finite", f"not finite: {', '.join(bad)}")


def skipped_steps(evidence: Evidence, config: GateConfig) -> Check:
    """Whatever was trained here took nearly all steps of its training: rlhf/training/setbacks.py."""
    base = {"the base": evidence.base} if "steps" in evidence.base else {}  # one that others trained has none
    rewards = {f"the reward model {criterion}": report for criterion, report in evidence.reward.items()}
    judging = {**rewards, "the referee": evidence.referee}
    reports = {**base, "SFT": evidence.sft, **judging, evidence.algorithm: evidence.align}

    def of(name: str) -> Check:
        skipped, steps = (number(reports, name, key) for key in ("skipped", "steps"))
        if not 0 <= skipped <= steps or steps < 1:
            raise Unusable(f"{name}.skipped is {skipped:.6g} of {steps:.6g} steps, which is no share")
        what = f"share of {name}'s training steps that were left out"
        return point(skipped / steps, config.limits.max_skipped, what, at_least=False)

    return worst([of(name) for name in reports])


def terminated(evidence: Evidence, config: GateConfig) -> Check:
    """Answers end by themselves and are not cut at the longest length."""
    ended = column(evidence.rows, "policy_terminated")
    interval = binomial_interval(int(ended.sum()), len(ended), confidence=config.confidence)
    return against(
        interval, config.limits.min_terminated, config, "answers that end by themselves", ".1%", at_least=True
    )


def empty(evidence: Evidence, config: GateConfig) -> Check:
    """Answers hold text."""
    answers = texts(evidence.rows, "policy_response")
    interval = binomial_interval(sum(not text for text in answers), len(answers), confidence=config.confidence)
    return against(interval, config.limits.max_empty, config, "empty answers", ".1%", at_least=False)


def broken(evidence: Evidence, config: GateConfig) -> Check:
    """Answers are no more often empty or cut than SFT's and the champion's."""

    def is_broken(side: str) -> NDArray[np.bool_]:
        unsaid = np.array([not text for text in texts(evidence.rows, f"{side}_response")])
        return unsaid | (column(evidence.rows, f"{side}_terminated") == 0.0)

    def over(side: str, name: str) -> Check:
        interval = paired_difference(is_broken("policy"), is_broken(side), confidence=config.confidence)
        what = f"rise in empty or cut answers over {name}"
        return against(interval, config.limits.max_broken_increase, config, what, ".1%", at_least=False)

    return worst([over(side, name) for side, name in opponents(evidence)])


def repetition(evidence: Evidence, config: GateConfig) -> Check:
    """Answers do not go in circles: repeated 4-grams of tokens, beside those of SFT and of the champion."""
    ratio = config.limits.max_repetition_ratio

    def beyond(side: str, name: str) -> Check:
        policy, other = (column(evidence.rows, f"{one}_repetition") for one in ("policy", side))
        interval = bootstrap_mean(policy - ratio * other, **by_row(evidence, config))
        what = f"repetition beyond {ratio:.3g} times that of {name}"
        return against(interval, config.limits.max_repetition, config, what, ".1%", at_least=False)

    return worst([beyond(side, name) for side, name in opponents(evidence)])


def copying(evidence: Evidence, config: GateConfig) -> Check:
    """Answers do not say the prompt again, beyond what SFT and the champion do, who also quote where that is right."""

    def over(side: str, name: str) -> Check:
        policy, other = (column(evidence.rows, f"{one}_copying") for one in ("policy", side))
        interval = bootstrap_mean(policy - other, **by_row(evidence, config))
        what = f"rise in words copied from the prompt over {name}"
        return against(interval, config.limits.max_copying_increase, config, what, ".1%", at_least=False)

    return worst([over(side, name) for side, name in opponents(evidence)])


CHECKS = (
    prompts,
    finite_numbers,
    skipped_steps,
    terminated,
    empty,
    broken,
    repetition,
    copying,
)
