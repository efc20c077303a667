"""Test prompts and the answers to them: some chosen by a rule that looks at no score, and those that differ most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.gate.records import finite

EXAMPLES = 3  # of each kind

Row = Mapping[str, Any]  # of an evaluation: a prompt, what each model answered, what that was worth


@dataclass(frozen=True)
class Answer:
    """What a model said, and what the reward model and gold gave for it; None where they did not."""

    model: str  # "sft", "champion", or the algorithm
    text: str
    reward: float | None
    gold: float | None


@dataclass(frozen=True)
class Example:
    """One test prompt, answered by an opponent and by a policy."""

    prompt_id: str
    use_case: str
    prompt: tuple[tuple[str, str], ...]  # (role, content) of each message
    theirs: Answer
    ours: Answer


def evaluation_rows(workspace: Path, algorithm: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a policy's evaluation, of all columns or of these. Raises DataError where there are none."""
    import pyarrow.parquet

    path = workspace / "reports/evaluate" / algorithm / "rows" / "rows.parquet"
    if not path.exists():
        raise DataError(f"{path} does not exist. Make it with: rlhf run")
    rows: list[dict[str, Any]] = pyarrow.parquet.ParquetFile(path).read(columns).to_pylist()
    return rows


def by_rule(rows: Sequence[Row], algorithm: str, opponent: str = "sft") -> tuple[Example, ...]:
    """The first prompts that were drawn of three use cases that differ from each other, where the two answers differ.

    The rule looks at no score, so the examples are not picked to please.
    """
    chosen: dict[str, Example] = {}
    for row in rows:
        if row["use_case"] not in chosen and row[f"{opponent}_response"] != row["policy_response"]:
            chosen[row["use_case"]] = _example(row, algorithm, opponent)
        if len(chosen) == EXAMPLES:
            break
    return tuple(chosen.values())


def by_gain(
    rows: Sequence[Row], algorithm: str, opponent: str, judge: str | None
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The prompts on which the policy's answer is better than the opponent's by most, and those on which it is worse by
    most, the largest difference first; of equal ones the first that was drawn."""
    found = list(zip(_gains(rows, opponent, judge), rows, strict=True))
    better = sorted((pair for pair in found if pair[0] > 0), key=lambda pair: -pair[0])
    worse = sorted((pair for pair in found if pair[0] < 0), key=lambda pair: pair[0])
    most, least = (
        tuple(_example(row, algorithm, opponent) for _, row in pairs[:EXAMPLES]) for pairs in (better, worse)
    )
    return most, least


def _gains(rows: Sequence[Row], opponent: str, judge: str | None) -> list[float]:
    """What the policy's answer is worth above the opponent's: by the judge's score if it gives every answer one, else
    1/2 where it won, -1/2 where it lost; 0 where nobody knows."""
    scores = [(finite(row.get(f"policy_{judge}")), finite(row.get(f"{opponent}_{judge}"))) for row in rows]
    known = [ours - theirs for ours, theirs in scores if ours is not None and theirs is not None]
    if len(known) == len(rows):
        return known
    points = [finite(row.get(f"points_{opponent}")) for row in rows]
    return [0.0 if point is None else point - 0.5 for point in points]


def _example(row: Row, algorithm: str, opponent: str) -> Example:
    return Example(
        prompt_id=row["prompt_id"],
        use_case=row["use_case"],
        prompt=tuple((message["role"], message["content"]) for message in row["prompt"]),
        theirs=_answer(row, opponent, opponent),
        ours=_answer(row, "policy", algorithm),
    )


def _answer(row: Row, side: str, model: str) -> Answer:
    return Answer(model, row[f"{side}_response"], finite(row.get(f"{side}_reward")), finite(row.get(f"{side}_gold")))
