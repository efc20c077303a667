"""The policy still has more than one answer: to a prompt that is asked again, and over all prompts."""

from collections import Counter
from dataclasses import replace

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, column, number, texts
from rlhf.gate.findings import against, by_row, point
from rlhf.gate.records import Check
from rlhf.gate.statistics import binomial_interval, bootstrap_ratio


def prompt_diversity(evidence: Evidence, config: GateConfig) -> Check:
    """Its answers to one prompt differ as much as SFT's (Kirk et al. 2023, https://arxiv.org/abs/2310.06452)."""
    policy, sft = (column(evidence.diversity, f"{side}_distinct_2") for side in ("policy", "sft"))
    if not (sft > 0).any():
        raise Unusable("SFT's answers have no 2-grams")
    interval = bootstrap_ratio(policy, sft, **by_row(evidence, config))
    what = "distinct 2-grams of a prompt's answers, relative to SFT,"
    return against(interval, config.limits.min_prompt_diversity, config, what, ".3g", at_least=True)


def distinct_2(evidence: Evidence, config: GateConfig) -> Check:
    """Answers to different prompts did not collapse into one."""
    policy, sft = (number(evidence.evaluation, "distinct_2", side) for side in ("policy", "sft"))
    if sft <= 0:
        raise Unusable("SFT's answers have no 2-grams")
    return point(policy / sft, config.limits.min_distinct, "distinct 2-grams relative to SFT", at_least=True)


def mode_share(evidence: Evidence, config: GateConfig) -> Check:
    """No one answer is given to many prompts."""
    said = texts(evidence.rows, "policy_response")
    ((answer, times),) = Counter(said).most_common(1)
    interval = binomial_interval(times, len(said), confidence=config.confidence)
    check = against(
        interval, config.limits.max_mode_share, config, "prompts with the commonest answer", ".1%", at_least=False
    )
    return replace(check, reason=f"{check.reason}: {answer[:60]!r}")


def entropy(evidence: Evidence, config: GateConfig) -> Check:
    """It is not much surer of its next token than SFT is. A warning."""
    policy, sft = (column(evidence.rows, f"{side}_entropy") for side in ("policy", "sft"))
    if not (sft > 0).any():
        raise Unusable("SFT's answers have no entropy")
    interval = bootstrap_ratio(policy, sft, **by_row(evidence, config))
    what = "entropy of a token relative to SFT"
    return replace(against(interval, config.limits.min_entropy, config, what, ".3g", at_least=True), blocking=False)


CHECKS = (
    prompt_diversity,
    distinct_2,
    mode_share,
    entropy,
)
