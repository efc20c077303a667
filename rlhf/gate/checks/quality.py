"""The policy is better than SFT, and no kind of prompt pays for it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, judged
from rlhf.gate.findings import against, fact, resampling
from rlhf.gate.records import Check, Interval, Outcome, WinRate
from rlhf.gate.statistics import detectable_rate, holm, sign_test, win_rate


def better_than_sft(evidence: Evidence, config: GateConfig) -> Check:
    """The lower bound of the win rate against SFT is above the threshold."""
    return _better(evidence, config, "sft", "SFT")


def better_than_champion(evidence: Evidence, config: GateConfig) -> Check:
    """The lower bound of the win rate against the policy in use is above the threshold. The first has none to beat."""
    if evidence.champion is None:
        return fact(True, "there is no champion yet; the first has to pass every other check", "")
    if evidence.champion == evidence.policy_digest:
        return fact(False, "", "it is the champion already")
    return _better(evidence, config, "champion", "the champion")


def more_wins_than_luck(evidence: Evidence, config: GateConfig) -> Check:
    """So many wins would be rare if both were equally good: the exact sign test, which assumes nothing else."""
    rate = measured_win_rate(evidence, config, "sft")
    p, alpha = sign_test(rate.wins, rate.losses), (1 - family_confidence(evidence, config)) / 2
    against = sign_test(rate.losses, rate.wins)
    outcome: Outcome = "pass" if p < alpha else "fail" if against < alpha else "undecided"
    reason = f"so many wins by luck: p = {p:.3g}, must be below {alpha:.3g}"
    return Check(outcome=outcome, reason=reason, value=p, threshold=alpha, n=rate.wins + rate.losses, at_least=False)


def no_use_case_worse(evidence: Evidence, config: GateConfig) -> Check:
    """No use case lost significantly (exact sign test, Holm over use cases; small ones pooled)."""
    points, slices = judged(evidence, "sft"), _slices(evidence, config.limits.min_slice)
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


def measured_win_rate(evidence: Evidence, config: GateConfig, opponent: str) -> WinRate:
    """The win rate from the evaluation's rows, its interval widened for the number of candidates."""
    points = judged(evidence, opponent)
    return win_rate(points, **resampling(evidence, family_confidence(evidence, config), config))


def family_confidence(evidence: Evidence, config: GateConfig) -> float:
    """Confidence of one candidate's interval so that all candidates' hold together (Bonferroni): the best is promoted,
    and the best of ten equal policies would pass at 5 % two times in five."""
    return 1 - (1 - config.confidence) / evidence.candidates


def _better(evidence: Evidence, config: GateConfig, opponent: str, name: str) -> Check:
    rate, n = measured_win_rate(evidence, config, opponent), len(judged(evidence, opponent))
    family = family_confidence(evidence, config)
    interval = Interval(rate.value, rate.low, rate.high, n)
    check = against(
        interval,
        config.limits.min_win_rate,
        config,
        f"win rate against {name}",
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


def _slices(evidence: Evidence, smallest: int) -> NDArray[np.str_]:
    """The use case of each row (N,); those with fewer than `smallest` rows become "others"."""
    if "use_case" not in evidence.rows:
        raise Unusable("the evaluation's rows have no column use_case")
    names, inverse, counts = np.unique(evidence.rows["use_case"].astype(str), return_inverse=True, return_counts=True)
    return np.where(counts < smallest, "others", names)[inverse]
