"""The door: a judge is given comparisons and says of each which answer is better, or that both are as good.

A judge that reads two answers at once is asked in both orders, since it may lean to the first place (Zheng et al. 2023,
https://arxiv.org/abs/2306.05685, section 3.3). One that scores answers one by one cannot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.gate.statistics import win_points

Verdict = Literal["first", "second", "tie"]
Prompt = Sequence[Mapping[str, str]]  # messages
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt."""

    prompt_id: str
    prompt: Prompt
    first: str
    second: str

    @property
    def turned(self) -> "Comparison":
        """The same with the answers in each other's place."""
        return Comparison(self.prompt_id, self.prompt, self.second, self.first)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge said of N comparisons; each (N,), NaN where there is nothing to say."""

    points: Array  # of the first answer: 1 better, 1/2 as good, 0 worse; NaN without a verdict
    consistent: Array  # 1 where both orders gave the same verdict, else 0; NaN unless both gave one
    first_place: Array  # decided verdicts for the answer that was shown first
    decided: Array  # decided verdicts


Ask = Callable[[Sequence[Comparison]], list[Verdict | None]]  # None: no verdict
Judge = Callable[[Sequence[Comparison]], Judged]

POINTS: Mapping[Verdict, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


def between(rows: Sequence[Mapping[str, Any]], opponent: str) -> list[Comparison]:
    """The policy's answer to the prompt of each row of an evaluation beside that of `opponent`, sft or champion."""
    texts = ((row["policy_response"], row[f"{opponent}_response"]) for row in rows)
    return [Comparison(row["prompt_id"], row["prompt"], *both) for row, both in zip(rows, texts, strict=True)]


def in_both_orders(ask: Ask, comparisons: Sequence[Comparison]) -> Judged:
    """Ask in both orders. Where the two verdicts differ, or one is missing, there is a tie, or none.

    Answers that are the same are a tie, and nobody is asked.
    """
    differing = np.array([one.first != one.second for one in comparisons], dtype=bool)
    asked = [one for one, differs in zip(comparisons, differing, strict=True) if differs]
    verdicts = ask([*asked, *(one.turned for one in asked)])
    there, back = (_points(half) for half in (verdicts[: len(asked)], verdicts[len(asked) :]))
    both = ~np.isnan(there + back)
    same = there == 1 - back
    judged = Judged(
        points=np.full(len(comparisons), 0.5),
        consistent=np.full(len(comparisons), np.nan),
        first_place=np.zeros(len(comparisons)),
        decided=np.zeros(len(comparisons)),
    )
    judged.points[differing] = np.where(both, np.where(same, there, 0.5), np.nan)
    judged.consistent[differing] = np.where(both, same, np.nan)
    judged.first_place[differing] = (there == 1) + (back == 1).astype(float)
    judged.decided[differing] = sum(((half == 0) | (half == 1)).astype(float) for half in (there, back))
    return judged


def by_scores(first: Array, second: Array) -> Judged:
    """The verdicts of a judge that scores answers one by one, from the scores (N,) of both sides."""
    points = win_points(first, second)
    nothing = np.zeros(len(points))
    return Judged(points, np.full(len(points), np.nan), nothing, nothing)


def _points(verdicts: Sequence[Verdict | None]) -> Array:
    return np.array([np.nan if one is None else POINTS[one] for one in verdicts], dtype=np.float64)
