"""The checks of the gate: each a pure function of the evidence about one policy and the section `gate` of params.yaml.

A check passes when its whole interval lies on the good side of the threshold, fails when the whole interval lies on the
bad side, and is undecided in between. A new check is a function in the file of its group and its name in CHECKS there.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

from rlhf.config.gate import GateConfig, Unmeasurable
from rlhf.gate.checks import (
    diversity,
    integrity,
    judge,
    overoptimization,
    quality,
    reward_model,
    safety,
    sanity,
    serving,
    tax,
)
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, not_finite
from rlhf.gate.records import Check

GROUPS: Mapping[str, tuple[Callable[[Evidence, GateConfig], Check], ...]] = {
    "integrity": integrity.CHECKS,
    "sanity": sanity.CHECKS,
    "judge": judge.CHECKS,
    "quality": quality.CHECKS,
    "reward model": reward_model.CHECKS,
    "over-optimisation": overoptimization.CHECKS,
    "safety": safety.CHECKS,
    "alignment tax": tax.CHECKS,
    "diversity": diversity.CHECKS,
    "serving": serving.CHECKS,
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
        if bad := not_finite({**vars(found), **{part.name: vars(part) for part in found.parts}}):
            raise Unusable(f"the {', '.join(bad)} of this check came out as no finite number")
        return found
    except Unusable as error:
        return Check(outcome="error", reason=str(error))
    except Unmeasured as error:
        allowed, may_be = (check.__name__ in names for names in (config.may_be_unmeasured, get_args(Unmeasurable)))
        said = f"; gate.may_be_unmeasured {'allows it' if allowed else 'does not name it'}" if may_be else ""
        return Check(
            outcome="unmeasured",
            reason=f"{error}{said}",
            blocking=not allowed,
        )
