"""The checks of the gate: each a pure function of the evidence about one policy and the section `gate` of params.yaml.

A check passes when its whole interval lies on the good side of the threshold, fails when the whole interval lies on the
bad side, and is undecided in between. A new check is a function in the file of its group and its name in GROUPS.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from rlhf.config.gate import GateConfig
from rlhf.gate.checks.diversity import distinct_2
from rlhf.gate.checks.integrity import lineage, policy_bytes, reference_bytes, rows_agree, unseen_prompts
from rlhf.gate.checks.judge import judge_a_a, judge_agrees, judge_complete, judge_consistent
from rlhf.gate.checks.overoptimization import gold_gain, kl, length_ratio
from rlhf.gate.checks.quality import better_than_champion, better_than_sft, more_wins_than_luck, no_use_case_worse
from rlhf.gate.checks.reward_model import reward_accuracy, reward_calibration, reward_length_bias
from rlhf.gate.checks.safety import harmful_compliance, over_refusal
from rlhf.gate.checks.sanity import empty, finite_numbers, prompts, terminated
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, not_finite
from rlhf.gate.records import Check

GROUPS: Mapping[str, tuple[Callable[[Evidence, GateConfig], Check], ...]] = {
    "integrity": (policy_bytes, reference_bytes, lineage, rows_agree, unseen_prompts),
    "sanity": (prompts, finite_numbers, terminated, empty),
    "judge": (judge_complete, judge_consistent, judge_agrees, judge_a_a),
    "quality": (better_than_sft, better_than_champion, more_wins_than_luck, no_use_case_worse),
    "reward model": (reward_accuracy, reward_calibration, reward_length_bias),
    "over-optimisation": (kl, gold_gain, length_ratio),
    "safety": (harmful_compliance, over_refusal),
    "diversity": (distinct_2,),
}
NAMES = tuple(check.__name__ for checks in GROUPS.values() for check in checks)


def run_checks(evidence: Evidence, config: GateConfig) -> tuple[Check, ...]:
    """Every check of every group. One that cannot be made is there too, with the reason; none is left out."""
    return tuple(
        replace(_made(check, evidence, config), name=check.__name__, group=group)
        for group, checks in GROUPS.items()
        for check in checks
    )


def _made(check: Callable[[Evidence, GateConfig], Check], evidence: Evidence, config: GateConfig) -> Check:
    try:
        found = check(evidence, config)
        if bad := not_finite(vars(found)):
            raise Unusable(f"the {', '.join(bad)} of this check came out as no finite number")
        return found
    except Unusable as error:
        return Check(outcome="error", reason=str(error))
    except Unmeasured as error:
        allowed = check.__name__ in config.may_be_unmeasured
        return Check(
            outcome="unmeasured",
            reason=f"{error}; gate.may_be_unmeasured {'allows it' if allowed else 'does not name it'}",
            blocking=not allowed,
        )
