"""The curves of a run as a table that `dvc plots` and the report read."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import DataError

TAIL = 0.1  # share of the steps


def write_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """One line a step; a column a metric, in the order of their names after `step`."""
    columns = ["step", *sorted({name for row in history for name in row} - {"step"})]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in history)


def of_training(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The metrics of every training: its loss at the end, its steps, and how many of them were left out.

    rlhf/training/setbacks.py says when a step is.
    """
    left_out = sum("skipped" in row for row in history)
    return {"loss": tail_mean(history, "loss"), "steps": len(history), "skipped": left_out}


def in_words(history: Sequence[dict[str, float]]) -> str:
    """What must be said of a training beside its loss; nothing when it took every step."""
    left_out = sum("skipped" in row for row in history)
    return (
        f", {left_out} of {len(history)} steps left out: not finite, or KL passed max_kl after them" if left_out else ""
    )


def first_learned(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The first step that was not left out. Raises DataError when all were."""
    for row in history:
        if "skipped" not in row:
            return row
    raise DataError(
        "Every step of the training was left out: not finite, or KL passed max_kl after it. Lower the learning_rate"
    )


def tail_mean(history: Sequence[dict[str, float]], name: str) -> float:
    """Mean of a metric over the last TAIL of the steps that have it: steadier than the last value.

    Raises DataError when none has: the data lack what it counts.
    """
    values = [row[name] for row in history if name in row]
    if not values:
        raise DataError(
            f"No step of the training could measure `{name}`: what it learned from has nothing that it counts, such as "
            "a pair that is no tie. Collect more feedback, or train for more epochs"
        )
    last = values[-max(1, int(len(values) * TAIL)) :]
    return sum(last) / len(last)
