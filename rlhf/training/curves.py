"""The curves of a run as a table that `dvc plots` and the report read."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import DataError


def write_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """One line a step; a column a metric, in the order of their names after `step`."""
    columns = ["step", *sorted({name for row in history for name in row} - {"step"})]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in history)


def tail_mean(history: Sequence[dict[str, float]], name: str, share: float = 0.1) -> float:
    """Mean of a metric over the last tenth of the steps that have it: steadier than the last value.

    Raises DataError when none has: the data lack what it counts.
    """
    values = [row[name] for row in history if name in row]
    if not values:
        raise DataError(
            f"No step of the training could measure `{name}`: what it learned from has nothing that it counts, such as "
            "a pair that is no tie. Collect more feedback, or train for more epochs."
        )
    last = values[-max(1, int(len(values) * share)) :]
    return sum(last) / len(last)
