"""The policy is better than SFT and than the champion, at equal length too, and no kind of prompt pays for it."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence, Unusable, column, judged, prompt_ids, texts
from rlhf.gate.findings import OPPONENTS, against, by_prompt, fact, opponents, worst
from rlhf.gate.length_control import length_controlled_win_rate
from rlhf.gate.records import Check, Interval, Outcome, Part, WinRate
from rlhf.gate.sequential import confidence_sequence
from rlhf.gate.statistics import (
    at_least_test,
    binomial_interval,
    cluster_means,
    detectable_rate,
    exact_win_rate,
    holm,
    sign_flip_test,
    win_rate,
)
from rlhf.gate.style import style_differences

HEADROOM = 0.25  # of the way to 0 or 1: length control that moves a win rate by less is never extreme (AlpacaEval)


def better_than_sft(evidence: Evidence, config: GateConfig) -> Check:
    """The lower bound of the win rate against SFT is above the threshold."""
    return _better(evidence, config, "sft")


def better_than_champion(evidence: Evidence, config: GateConfig) -> Check:
    """The lower bound of the win rate against the policy in use is above the threshold. The first has none to beat."""
    if evidence.champion is None:
        return fact(True, "there is no champion yet; the first has to pass every other check", "")
    if evidence.champion == evidence.policy_digest:
        return fact(False, "", "it is the champion already")
    return _better(evidence, config, "champion")


def more_wins_than_luck(evidence: Evidence, config: GateConfig) -> Check:
    """So many wins would be rare if both were equally good, against SFT and against the champion.

    The sign test by prompt, which assumes nothing else. People's verdicts come in over time and the gate is looked at
    again and again: theirs are held against an interval that allows it.
    """
    test = _at_any_time if evidence.evaluation.get("judge") == "people" else _once
    return worst([test(evidence, config, opponent) for opponent, _ in opponents(evidence)])


def length_controlled(evidence: Evidence, config: GateConfig) -> Check:
    """The win rates would be above one half were all answers as long, and as rich in Markdown, as SFT's, and as the
    champion's."""
    return worst([_at_equal_length(evidence, config, opponent, name) for opponent, name in opponents(evidence)])


def _at_equal_length(evidence: Evidence, config: GateConfig, opponent: str, name: str) -> Check:
    longer = column(evidence.rows, "policy_length") - column(evidence.rows, f"{opponent}_length")
    points, confidence = judged(evidence, opponent), family_confidence(evidence, config)
    answers = (texts(evidence.rows, f"{side}_response") for side in ("policy", opponent))
    style = style_differences(*answers)
    interval = length_controlled_win_rate(points, longer, style, **by_prompt(evidence, config, confidence))
    what = f"win rate against {name} at equal length{' and style' if style.any() else ''}"
    check = against(interval, 0.5, config, what, ".1%", at_least=True, above=True, confidence=confidence)
    plain = float(points.mean())
    room = 1 - plain if interval.value > plain else plain
    most = max(config.limits.max_length_shift, HEADROOM * room)
    if check.passed and abs(interval.value - plain) > most:
        check = replace(check, outcome="undecided")
    return replace(
        check,
        reason=f"{check.reason}; {plain:.1%} as it is, which length control must not move by more than {most:.1%}",
    )


def ties(evidence: Evidence, config: GateConfig) -> Check:
    """The judge sees a difference on enough prompts for the others to speak for all."""

    def of(opponent: str, name: str) -> Check:
        tied = judged(evidence, opponent) == 0.5
        share = binomial_interval(int(tied.sum()), len(tied), confidence=config.confidence)
        check = against(share, config.limits.max_ties, config, f"share of ties with {name}", ".1%", at_least=False)
        return replace(check, outcome="pass" if check.passed else "undecided")

    return worst([of(opponent, name) for opponent, name in opponents(evidence)])


def no_use_case_worse(evidence: Evidence, config: GateConfig) -> Check:
    """In no slice of the prompts does the policy lose by more than a margin, to SFT or to the champion.

    It passes if every slice's interval lies above the margin: all have to, so none needs a correction. It fails if some
    slice is below it beyond what chance does to one of so many (exact binomial test, Holm), or if a slice that
    gate.slices names has no prompts (as in TFX's evaluator). Slices with few prompts are pooled.
    """
    if absent := _absent(evidence, config):
        return fact(False, "", f"no prompt of {', '.join(absent)}, which gate.slices names")
    least, clusters = max(0.5 - config.limits.max_slice_loss, 0.0), prompt_ids(evidence)
    parts, p_values = [], []
    for opponent, opposed in opponents(evidence):
        points = judged(evidence, opponent)
        for name, chosen in _slices(evidence, config):
            found = exact_win_rate(points[chosen], confidence=config.confidence, clusters=clusters[chosen])
            parts.append(Part(**vars(found), name=f"{name} against {opposed}"))
            p_values.append(at_least_test(found.value * found.n, found.n, least))
    adjusted = holm(np.array(p_values))
    lost = bool(adjusted.min() < (1 - config.confidence) / 2)
    shown = int(np.argmin(adjusted)) if lost else int(np.argmin([part.low for part in parts]))
    part, total = parts[shown], len(evidence.rows["points_sft"])
    check = against(part, least, config, f"win rate on {part.name}", ".1%", at_least=True)
    undecided: Outcome = "pass" if check.passed else "undecided"
    return replace(
        check,
        outcome="fail" if lost else undecided,
        reason=f"{check.reason}; the lowest of {len(parts)} slices, adjusted p of being below {adjusted[shown]:.3g}",
        needed=None if lost or check.needed is None else -(-check.needed * total // part.n),
        parts=tuple(parts),
    )


CHECKS = (
    better_than_sft,
    better_than_champion,
    more_wins_than_luck,
    length_controlled,
    ties,
    no_use_case_worse,
)


def measured_win_rate(evidence: Evidence, config: GateConfig, opponent: str) -> WinRate:
    """The win rate from the evaluation's rows, its interval widened for the number of candidates."""
    points = judged(evidence, opponent)
    return win_rate(points, **by_prompt(evidence, config, family_confidence(evidence, config)))


def family_confidence(evidence: Evidence, config: GateConfig) -> float:
    """Confidence of one candidate's interval so that all intervals that were ever looked at on these prompts hold
    together: the best is promoted, and the best of ten equal policies would pass at 5 % two times in five.

    The k-th policy that is judged on a test set may err with alpha 6 / (pi k)^2, which over all k is alpha; those that
    are new in one run share theirs.
    """
    spent = math.fsum(6 / (math.pi * k) ** 2 for k in evidence.sharing)
    return 1 - (1 - config.confidence) * spent / len(evidence.sharing)


def _better(evidence: Evidence, config: GateConfig, opponent: str) -> Check:
    rate, family = measured_win_rate(evidence, config, opponent), family_confidence(evidence, config)
    prompts = len(cluster_means(judged(evidence, opponent), prompt_ids(evidence)))
    interval = Interval(rate.value, rate.low, rate.high, prompts)
    check = against(
        interval,
        config.limits.min_win_rate,
        config,
        f"win rate against {OPPONENTS[opponent]}",
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


def _once(evidence: Evidence, config: GateConfig, opponent: str) -> Check:
    differences = 2 * cluster_means(judged(evidence, opponent), prompt_ids(evidence)) - 1
    alpha = (1 - family_confidence(evidence, config)) / 2
    better, worse = (
        sign_flip_test(sign * differences, resamples=config.bootstrap, seed=evidence.seed) for sign in (1, -1)
    )
    outcome: Outcome = "pass" if better < alpha else "fail" if worse < alpha else "undecided"
    return Check(
        outcome=outcome,
        reason=f"so many wins over {OPPONENTS[opponent]} by luck: p = {better:.3g}, must be below {alpha:.3g}",
        value=better,
        threshold=alpha,
        n=int((differences != 0).sum()),
        at_least=False,
    )


def _at_any_time(evidence: Evidence, config: GateConfig, opponent: str) -> Check:
    points, confidence = judged(evidence, opponent), family_confidence(evidence, config)
    interval = confidence_sequence(points, confidence=confidence, clusters=prompt_ids(evidence))
    what = f"win rate against {OPPONENTS[opponent]} by people, however often it is looked at,"
    return against(interval, 0.5, config, what, ".1%", at_least=True, above=True, confidence=confidence)


def _absent(evidence: Evidence, config: GateConfig) -> list[str]:
    """Slices that gate.slices names, and that hold no prompt."""
    return [
        f"{name} {value}"
        for name, wanted in config.slices.items()
        for value in wanted
        if value not in set(_values(evidence, name))
    ]


def _slices(evidence: Evidence, config: GateConfig) -> list[tuple[str, NDArray[np.bool_]]]:
    """Every slice's name and its rows (N,). Of each column the small ones are one, with the next larger where together
    they are still small."""
    found = []
    for name in config.slices:
        rows = _values(evidence, name)
        values, counts = np.unique(rows, return_counts=True)
        order, pooled = np.argsort(counts, kind="stable"), 0
        while pooled < len(order) and (
            counts[order[pooled]] < config.limits.min_slice
            or 0 < counts[order[:pooled]].sum() < config.limits.min_slice
        ):
            pooled += 1
        found += [
            (f"{name} {value}" if value else f"no {name}", rows == value) for value in values[np.sort(order[pooled:])]
        ]
        if pooled:
            found.append((f"any other {name}", np.isin(rows, values[order[:pooled]])))
    return found


def _values(evidence: Evidence, name: str) -> NDArray[np.str_]:
    if name not in evidence.rows:
        raise Unusable(f"the evaluation's rows have no column {name}, by which gate.slices slices them")
    return evidence.rows[name].astype(str)
