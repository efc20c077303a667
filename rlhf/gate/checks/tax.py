"""The policy still can what SFT could: the price of alignment (Ouyang et al. 2022, section 4.2)."""

from dataclasses import replace

import numpy as np

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, column, number
from rlhf.gate.findings import against, by_row
from rlhf.gate.records import Check, Interval
from rlhf.gate.statistics import bootstrap_ratio, paired_difference


def capability(evidence: Evidence, config: GateConfig) -> Check:
    """Where there is a right answer, the policy gives it as often as SFT."""
    policy, sft = (column(evidence.rows, f"{side}_correct") for side in ("policy", "sft"))
    asked = column(evidence.rows, "has_right_answer") == 1.0
    if not asked.any():
        raise Unmeasured("no prompt of the evaluation has a right answer")
    interval = paired_difference(policy[asked], sft[asked], confidence=config.confidence)
    limit = -config.limits.max_capability_loss
    return against(interval, limit, config, "gain in right answers", ".1%", at_least=True)


def lm_loss(evidence: Evidence, config: GateConfig) -> Check:
    """Unseen texts are about as likely as under SFT. A warning: they are not what the policy is for."""
    if number(evidence.evaluation, "documents") == 0:
        raise Unmeasured("the evaluation holds no texts that nothing trained on")
    policy, sft, tokens = (column(evidence.documents, name) for name in ("policy_nats", "sft_nats", "tokens"))
    if (tokens <= 0).any():
        raise Unusable("the evaluation holds a text without tokens")
    nats = bootstrap_ratio(policy - sft, tokens, **by_row(evidence, config))
    with np.errstate(over="ignore"):  # infinity is refused as any number that is not finite
        value, low, high = np.exp([nats.value, nats.low, nats.high]).tolist()
    limit = config.limits.max_perplexity_ratio
    check = against(
        Interval(value, low, high, nats.n), limit, config, "perplexity relative to SFT", ".3g", at_least=False
    )
    return replace(check, blocking=False)


CHECKS = (
    capability,
    lm_loss,
)
