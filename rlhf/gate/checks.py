"""The checks of the gate: each a pure function of the evidence about one policy and the thresholds of params.yaml.

A check passes when its whole interval lies on the good side of the threshold, fails when the whole interval lies on the
bad side, and is undecided in between. A new check is a function here and its name in GROUPS.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unmeasured, Unusable, column, count, judged, not_finite, number
from rlhf.gate.findings import against, fact, point
from rlhf.gate.records import Check, Interval, Outcome, WinRate
from rlhf.gate.statistics import (
    binomial_interval,
    bootstrap_mean,
    bootstrap_ratio,
    detectable_rate,
    holm,
    rate_difference,
    sign_test,
    win_points,
    win_rate,
)

ROUNDING = 1e-5  # reports hold six significant digits


def run_checks(evidence: Evidence, config: GateConfig) -> tuple[Check, ...]:
    """Every check of every group. One that cannot be made is there too, with the reason; none is left out."""
    return tuple(
        replace(_made(check, evidence, config), name=check.__name__, group=group)
        for group, checks in GROUPS.items()
        for check in checks
    )


def measured_win_rate(evidence: Evidence, config: GateConfig) -> WinRate:
    """The win rate against SFT from the evaluation's rows, its interval widened for the number of candidates."""
    policy, reference = judged(evidence)
    return win_rate(policy, reference, **_resampling(evidence, family_confidence(evidence, config), config))


def family_confidence(evidence: Evidence, config: GateConfig) -> float:
    """Confidence of one candidate's interval so that all candidates' hold together (Bonferroni): the best is promoted,
    and the best of ten equal policies would pass at 5 % two times in five."""
    return 1 - (1 - config.confidence) / evidence.candidates


# ---------------------------------------------------------------------------------------------------------- integrity


def policy_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The files that were evaluated are the files that are there now."""
    same = evidence.evaluation.get("policy_digest") == evidence.policy_digest
    return fact(same, "the evaluated files are the policy's files", "the policy's files changed after its evaluation")


def reference_bytes(evidence: Evidence, config: GateConfig) -> Check:
    """The policy was compared with the SFT model that it was trained from."""
    reference = evidence.evaluation.get("reference_digest")
    same = reference is not None and reference == _inputs(evidence).get("models/sft")
    return fact(same, "compared with the SFT model that it started from", "compared with another SFT model")


def lineage(evidence: Evidence, config: GateConfig) -> Check:
    """The policy's receipt leads to SFT, the reward models and the judgements, each by digest."""
    wanted = ("models/sft", *(f"models/reward/{criterion}" for criterion in evidence.reward), "data/judgements")
    missing = [name for name in wanted if not _inputs(evidence).get(name)]
    return fact(not missing, "the receipt names every input by digest", f"the receipt lacks {', '.join(missing)}")


def rows_agree(evidence: Evidence, config: GateConfig) -> Check:
    """The reported win rate and number of prompts are those of the rows, a row a prompt."""
    points = win_points(*judged(evidence))
    reported, prompts = number(evidence.evaluation, "win_rate", "value"), number(evidence.evaluation, "prompts")
    distinct = len(set(evidence.rows["prompt_id"])) if "prompt_id" in evidence.rows else 0
    same = abs(points.mean() - reported) <= ROUNDING and len(points) == prompts == distinct
    return fact(
        same,
        "the rows give the reported win rate",
        f"{len(points)} rows of {distinct} prompts with a win rate of {points.mean():.6g} against {prompts:.0f} prompts"
        f" and {reported:.6g} in the report",
    )


def unseen_prompts(evidence: Evidence, config: GateConfig) -> Check:
    """No prompt of the test split is in another split."""
    seen, alike = (number(evidence.validation, "set", "overlap", name) for name in ("prompts", "same_words"))
    return Check(
        outcome="fail" if seen else "pass",
        reason=f"{seen:.0f} prompts of the test split are in another split, must be none; {alike:.0f} differ from one "
        "in case and punctuation only",
        value=seen,
        threshold=0.0,
        at_least=False,
    )


# ------------------------------------------------------------------------------------------------------------- sanity


def prompts(evidence: Evidence, config: GateConfig) -> Check:
    """Enough prompts to say anything."""
    n = len(judged(evidence)[0])
    enough = n >= config.min_prompts
    reason = f"{n} prompts, of at least {config.min_prompts}"
    return Check(
        outcome="pass" if enough else "undecided",
        reason=reason,
        value=float(n),
        n=n,
        threshold=float(config.min_prompts),
        needed=None if enough else config.min_prompts,
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
    return against(interval, config.min_terminated, config, "answers that end by themselves", ".1%", at_least=True)


def empty(evidence: Evidence, config: GateConfig) -> Check:
    """Answers hold text."""
    prompts = int(number(evidence.evaluation, "prompts"))
    interval = binomial_interval(
        count(evidence.evaluation, "empty", "policy", prompts), prompts, confidence=config.confidence
    )
    return against(interval, config.max_empty, config, "empty answers", ".1%", at_least=False)


# ------------------------------------------------------------------------------------------------------------ quality


def better_than_sft(evidence: Evidence, config: GateConfig) -> Check:
    """The lower bound of the win rate against SFT is above the threshold."""
    rate, n = measured_win_rate(evidence, config), len(judged(evidence)[0])
    family = family_confidence(evidence, config)
    interval = Interval(rate.value, rate.low, rate.high, n)
    check = against(
        interval,
        config.min_win_rate,
        config,
        "win rate against SFT",
        ".1%",
        at_least=True,
        above=True,
        confidence=family,
    )
    found = detectable_rate(max(rate.wins + rate.losses, 1), alpha=(1 - family) / 2, power=config.power)
    return replace(
        check,
        reason=f"{check.reason}; {rate.wins} wins, {rate.ties} ties, {rate.losses} losses; {evidence.candidates} "
        f"candidates; a true {found:.1%} would be found with power {config.power:.0%}",
    )


def more_wins_than_luck(evidence: Evidence, config: GateConfig) -> Check:
    """So many wins would be rare if both were equally good: the exact sign test, which assumes nothing else."""
    rate = measured_win_rate(evidence, config)
    p, alpha = sign_test(rate.wins, rate.losses), (1 - family_confidence(evidence, config)) / 2
    against = sign_test(rate.losses, rate.wins)
    outcome: Outcome = "pass" if p < alpha else "fail" if against < alpha else "undecided"
    reason = f"so many wins by luck: p = {p:.3g}, must be below {alpha:.3g}"
    return Check(outcome=outcome, reason=reason, value=p, threshold=alpha, n=rate.wins + rate.losses, at_least=False)


def no_use_case_worse(evidence: Evidence, config: GateConfig) -> Check:
    """No use case lost significantly (exact sign test, Holm over use cases; small ones pooled)."""
    points, slices = win_points(*judged(evidence)), _slices(evidence, config.min_slice)
    names = sorted(set(slices))
    wins = [int((points[slices == name] == 1.0).sum()) for name in names]
    losses = [int((points[slices == name] == 0.0).sum()) for name in names]
    adjusted = holm(np.array([sign_test(lost, won) for won, lost in zip(wins, losses, strict=True)]))
    rates = [float(points[slices == name].mean()) for name in names]
    lowest, worst = int(np.argmin(rates)), int(np.argmin(adjusted))
    held = adjusted[worst] >= 1 - config.confidence
    shown = lowest if held else worst
    return Check(
        outcome="pass" if held else "fail",
        reason=f"{names[shown]} has {rates[shown]:.1%} of {wins[shown] + losses[shown]} untied prompts, the lowest of "
        f"{len(names)} use cases; adjusted p of being worse {adjusted[shown]:.3g}, must not be below "
        f"{1 - config.confidence:.3g}",
        value=float(adjusted[shown]),
        threshold=1 - config.confidence,
        n=int((slices == names[shown]).sum()),
    )


# ------------------------------------------------------------------------------------------------------- reward model


def reward_accuracy(evidence: Evidence, config: GateConfig) -> Check:
    """Every reward model tells the better of two unseen answers."""

    def of(criterion: str) -> Check:
        keys = ("value", "low", "high", "pairs")
        value, low, high, pairs = (number(evidence.reward, criterion, "accuracy", key) for key in keys)
        interval, what = Interval(value, low, high, int(pairs)), f"accuracy of the reward model {criterion}"
        return against(interval, config.min_reward_accuracy, config, what, ".1%", at_least=True)

    return _worst(evidence, of)


def reward_calibration(evidence: Evidence, config: GateConfig) -> Check:
    """Every reward model is as sure as it is right."""

    def of(criterion: str) -> Check:
        value, what = number(evidence.reward, criterion, "ece"), f"calibration error of the reward model {criterion}"
        return point(value, config.max_reward_ece, what, at_least=False, warns=True)

    return _worst(evidence, of)


def reward_length_bias(evidence: Evidence, config: GateConfig) -> Check:
    """No reward is length in disguise (Singhal et al. 2023, https://arxiv.org/abs/2310.03716)."""

    def of(criterion: str) -> Check:
        value = abs(number(evidence.reward, criterion, "length_spearman"))
        what = f"rank correlation of length and the reward {criterion}"
        return point(value, config.max_reward_length_bias, what, at_least=False, warns=True)

    return _worst(evidence, of)


# -------------------------------------------------------------------------------------------------- over-optimisation


def kl(evidence: Evidence, config: GateConfig) -> Check:
    """The policy stayed near SFT, where the reward model knows its way (Gao et al. 2022)."""
    interval = bootstrap_mean(column(evidence.rows, "kl"), **_resampling(evidence, config.confidence, config))
    return against(interval, config.max_kl, config, "KL from SFT, nats a sequence", ".3g", at_least=False)


def gold_gain(evidence: Evidence, config: GateConfig) -> Check:
    """What the reward model was made for rose as well as the reward model's own score."""
    gain = column(evidence.rows, "policy_gold") - column(evidence.rows, "sft_gold")
    proxy = column(evidence.rows, "policy_reward") - column(evidence.rows, "sft_reward")
    interval = bootstrap_mean(gain, **_resampling(evidence, config.confidence, config))
    check = against(interval, 0.0, config, "gain in gold reward", ".3g", at_least=True)
    return replace(check, reason=f"{check.reason}; the reward model sees a gain of {proxy.mean():.3g}")


def length_ratio(evidence: Evidence, config: GateConfig) -> Check:
    """The policy did not win by length."""
    lengths = column(evidence.rows, "policy_length"), column(evidence.rows, "sft_length")
    if lengths[1].sum() == 0:
        raise Unusable("SFT's answers have no tokens")
    interval = bootstrap_ratio(*lengths, **_resampling(evidence, config.confidence, config))
    return against(interval, config.max_length_ratio, config, "mean length relative to SFT", ".3g", at_least=False)


# ------------------------------------------------------------------------------------------------- safety, diversity


def harmful_compliance(evidence: Evidence, config: GateConfig) -> Check:
    """The policy does not do what it should refuse more often than SFT."""
    interval = _rate_change(evidence, config, "harmful_compliance")
    return against(interval, config.max_harmful_increase, config, "rise in harm", ".1%", at_least=False)


def over_refusal(evidence: Evidence, config: GateConfig) -> Check:
    """The policy does not refuse what it should do more often than SFT."""
    interval = _rate_change(evidence, config, "over_refusal")
    return against(interval, config.max_over_refusal_increase, config, "rise in refusals", ".1%", at_least=False)


def distinct_2(evidence: Evidence, config: GateConfig) -> Check:
    """Answers did not collapse into one (Kirk et al. 2023, https://arxiv.org/abs/2310.06452)."""
    policy, sft = (number(evidence.evaluation, "distinct_2", side) for side in ("policy", "sft"))
    if sft <= 0:
        raise Unusable("SFT's answers have no 2-grams")
    return point(policy / sft, config.min_distinct, "distinct 2-grams relative to SFT", at_least=True)


GROUPS: Mapping[str, tuple[Callable[[Evidence, GateConfig], Check], ...]] = {
    "integrity": (policy_bytes, reference_bytes, lineage, rows_agree, unseen_prompts),
    "sanity": (prompts, finite_numbers, terminated, empty),
    "quality": (better_than_sft, more_wins_than_luck, no_use_case_worse),
    "reward model": (reward_accuracy, reward_calibration, reward_length_bias),
    "over-optimisation": (kl, gold_gain, length_ratio),
    "safety": (harmful_compliance, over_refusal),
    "diversity": (distinct_2,),
}
NAMES = tuple(check.__name__ for checks in GROUPS.values() for check in checks)


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


def _worst(evidence: Evidence, of: Callable[[str], Check]) -> Check:
    """A check that must hold for the reward model of every criterion, as it came out for the one that is worst off."""
    found = [of(criterion) for criterion in evidence.reward]
    if not found:
        raise Unusable("there is no report of a reward model")
    return min(found, key=lambda check: (("fail", "undecided", "pass").index(check.outcome), _room(check)))


def _room(check: Check) -> float:
    """By how much a value is on the good side of its threshold."""
    assert check.value is not None
    assert check.threshold is not None
    return check.value - check.threshold if check.at_least else check.threshold - check.value


def _resampling(evidence: Evidence, confidence: float, config: GateConfig) -> dict[str, Any]:
    """Settings of a bootstrap by prompt."""
    clusters = evidence.rows.get("prompt_id")
    return {"confidence": confidence, "resamples": config.bootstrap, "seed": evidence.seed, "clusters": clusters}


def _inputs(evidence: Evidence) -> Mapping[str, Any]:
    inputs = evidence.receipt.get("inputs")
    if not isinstance(inputs, Mapping):
        raise Unusable("the policy has no receipt that names its inputs")
    return inputs


def _slices(evidence: Evidence, smallest: int) -> NDArray[np.str_]:
    """The use case of each row (N,); those with fewer than `smallest` rows become "others"."""
    if "use_case" not in evidence.rows:
        raise Unusable("the evaluation's rows have no column use_case")
    names, inverse, counts = np.unique(evidence.rows["use_case"].astype(str), return_inverse=True, return_counts=True)
    return np.where(counts < smallest, "others", names)[inverse]


def _rate_change(evidence: Evidence, config: GateConfig, key: str) -> Interval:
    prompts = int(number(evidence.evaluation, key, "prompts"))
    if prompts == 0:
        raise Unmeasured(f"no prompt of the evaluation measures {key}")
    policy, sft = (count(evidence.evaluation, key, side, prompts) for side in ("policy", "sft"))
    return rate_difference((policy, prompts), (sft, prompts), confidence=config.confidence)
