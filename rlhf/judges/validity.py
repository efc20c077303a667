"""Whether a judge is one: it says something, the same in either order, what people say, and nothing where nothing is.

Each is a number with an interval of a bootstrap over prompts; None where it has no meaning for this judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.gate.records import Interval
from rlhf.gate.statistics import bootstrap_ratio, win_rate
from rlhf.judges.door import Comparison, Judge, Judged

Bootstrap = dict[str, Any]  # confidence, resamples, seed


def nulls(judged: Judged) -> dict[str, float]:
    """Comparisons without a verdict, of how many."""
    return {"count": int(np.isnan(judged.points).sum()), "n": len(judged.points)}


def consistency(judged: Sequence[Judged], prompts: Sequence[NDArray], bootstrap: Bootstrap) -> dict[str, float] | None:
    """Share of the comparisons with two verdicts whose two verdicts are the same; prompts (N,) of each judged."""
    same, owners = np.concatenate([one.consistent for one in judged]), np.concatenate(prompts)
    asked = ~np.isnan(same)
    return _ratio(same[asked], np.ones(int(asked.sum())), owners[asked], bootstrap)


def primacy(judged: Sequence[Judged], prompts: Sequence[NDArray], bootstrap: Bootstrap) -> dict[str, float] | None:
    """Share of the decided verdicts that are for the answer shown first, minus 1/2."""
    first, decided = (np.concatenate([getattr(one, name) for one in judged]) for name in ("first_place", "decided"))
    some = decided > 0
    found = _ratio(first[some], decided[some], np.concatenate(prompts)[some], bootstrap)
    return found and {name: value if name == "n" else value - 0.5 for name, value in found.items()}


def agreement(judge: Judge, labelled: Sequence[Comparison], bootstrap: Bootstrap) -> dict[str, float] | None:
    """How often the judge says what people said, of pairs whose first answer they preferred; a tie is half of a yes,
    no verdict a no."""
    points = np.nan_to_num(judge(labelled).points, nan=0.0)
    return share(points, [one.prompt_id for one in labelled], bootstrap)


def a_a(judge: Judge, same: Sequence[Comparison], bootstrap: Bootstrap) -> dict[str, float] | None:
    """The win rate of a model against itself, both answers drawn with other random numbers."""
    points = judge(same).points
    points = points[~np.isnan(points)]
    return asdict(win_rate(points, **bootstrap)) if len(points) else None


def share(points: Sequence[float] | NDArray, owners: Sequence[str], bootstrap: Bootstrap) -> dict[str, float] | None:
    """The mean of N points and their number, `pairs`, resampled by their owners (N,)."""
    found = _ratio(np.asarray(points, dtype=np.float64), np.ones(len(points)), np.asarray(owners), bootstrap)
    return found and {**found, "pairs": len(points)}


def pairs_of(rankings: Sequence[dict[str, Any]], most: int, seed: int, name: Callable[[Any], str]) -> list[Comparison]:
    """At most so many pairs of answers that people did not call equal, the better one first, drawn from all of them.

    rankings: rows of the table `rankings`, the rank of an answer None where it is left out; `name` gives the id of a
    prompt.
    """
    pairs = [
        Comparison(name(row["prompt"]), row["prompt"], row["responses"][i], row["responses"][j])
        for row in rankings
        for i, rank in enumerate(row["ranks"])
        for j, other in enumerate(row["ranks"])
        if rank is not None and other is not None and rank < other
    ]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:most]
    return [pairs[place] for place in sorted(chosen)]


def _ratio(top: NDArray, bottom: NDArray, owners: NDArray, bootstrap: Bootstrap) -> dict[str, float] | None:
    if not len(top):
        return None
    found: Interval = bootstrap_ratio(top, bottom, clusters=owners, **bootstrap)
    return asdict(found)
