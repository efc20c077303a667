"""The policy still has more than one answer."""

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, number
from rlhf.gate.findings import point
from rlhf.gate.records import Check


def distinct_2(evidence: Evidence, config: GateConfig) -> Check:
    """Answers did not collapse into one (Kirk et al. 2023, https://arxiv.org/abs/2310.06452)."""
    policy, sft = (number(evidence.evaluation, "distinct_2", side) for side in ("policy", "sft"))
    if sft <= 0:
        raise Unusable("SFT's answers have no 2-grams")
    return point(policy / sft, config.limits.min_distinct, "distinct 2-grams relative to SFT", at_least=True)
