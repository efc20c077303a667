"""What the policy was aligned with, and what that has learned from, deserve trust."""

from collections.abc import Callable, Mapping

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, interval, number
from rlhf.gate.findings import against, fact, point, worst
from rlhf.gate.records import Check


def reward_accuracy(evidence: Evidence, config: GateConfig) -> Check:
    """Every reward model tells the better of two unseen answers."""

    def of(criterion: str) -> Check:
        found, what = interval(evidence.reward, criterion, "accuracy"), f"accuracy of the reward model {criterion}"
        return against(found, config.limits.min_reward_accuracy, config, what, ".1%", at_least=True)

    return _worst(evidence, of)


def reward_short_answers(evidence: Evidence, config: GateConfig) -> Check:
    """No reward model overlooks that people preferred the shorter of two answers."""

    def of(criterion: str) -> Check:
        found = interval(evidence.reward, criterion, "short_accuracy")
        what = f"accuracy of the reward model {criterion} where the shorter answer was preferred"
        return against(found, config.limits.min_short_accuracy, config, what, ".1%", at_least=True)

    return _worst(evidence, of)


def referee_accuracy(evidence: Evidence, config: GateConfig) -> Check:
    """The reward model that watches the others tells the better of two unseen answers as well."""
    found = interval({"referee": evidence.referee}, "referee", "accuracy")
    return against(found, config.limits.min_reward_accuracy, config, "accuracy of the referee", ".1%", at_least=True)


def reward_calibration(evidence: Evidence, config: GateConfig) -> Check:
    """Every reward model is as sure as it is right."""

    def of(criterion: str) -> Check:
        value, what = number(evidence.reward, criterion, "ece"), f"calibration error of the reward model {criterion}"
        warns = not config.limits.reward_ece_blocks
        return point(value, config.limits.max_reward_ece, what, at_least=False, warns=warns)

    return _worst(evidence, of)


def reward_length_bias(evidence: Evidence, config: GateConfig) -> Check:
    """No reward is length in disguise (Singhal et al. 2023, https://arxiv.org/abs/2310.03716)."""

    def of(criterion: str) -> Check:
        if evidence.reward[criterion].get("length_spearman", 0) is None:
            raise Unmeasured(f"no two answers of the comparisons by {criterion} differ, in length or in reward")
        value = abs(number(evidence.reward, criterion, "length_spearman"))
        what = f"rank correlation of length and the reward {criterion}"
        return point(value, config.limits.max_reward_length_bias, what, at_least=False, warns=True)

    return _worst(evidence, of)


def feedback_alarms(evidence: Evidence, config: GateConfig) -> Check:
    """Nobody whose judgements the models learned from is under an alarm of screen that nobody has answered for."""
    screened, alarms = number(evidence.screening, "judgements"), evidence.screening.get("alarms")
    listed = alarms if isinstance(alarms, list) else [alarms]
    named = {alarm.get("name"): alarm.get("found") for alarm in listed if isinstance(alarm, Mapping)}
    if None in named or len(named) != len(listed):
        raise Unusable("`alarms` of the report of screen does not name each alarm once")
    waiting = [f"{name} ({found})" for name, found in named.items() if name not in config.accepted_alarms]
    raised_no_more = [name for name in config.accepted_alarms if name not in named]
    rest = f". No alarm has the name {', '.join(raised_no_more)} of gate.accepted_alarms" if raised_no_more else ""
    return fact(
        not waiting,
        f"{screened:.0f} judgements raise {len(named) or 'no'} alarms"
        + (", which gate.accepted_alarms names" if named else "")
        + rest,
        f"alarms about the feedback: {'; '.join(waiting)}. Name the annotator in validate.revoked of params.yaml, or "
        f"the alarm in gate.accepted_alarms{rest}",
    )


CHECKS = (
    reward_accuracy,
    reward_short_answers,
    reward_calibration,
    reward_length_bias,
    referee_accuracy,
    feedback_alarms,
)


def _worst(evidence: Evidence, of: Callable[[str], Check]) -> Check:
    """A check that must hold for the reward model of every criterion, as it came out for the one that is worst off.

    Raises Unmeasured where it could not be measured for one and holds for the others.
    """
    if not evidence.reward:
        raise Unusable("there is no report of a reward model")
    found, unmeasured = list[Check](), list[Unmeasured]()
    for criterion in evidence.reward:
        try:
            found.append(of(criterion))
        except Unmeasured as error:
            unmeasured.append(error)
    if unmeasured and all(check.passed for check in found):
        raise unmeasured[0]
    return worst(found)
