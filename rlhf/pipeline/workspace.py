"""A workspace that is held, and its params.yaml, which one run may have with other values.

They are set back when that run ends; where it was killed, by whoever holds the workspace next.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf import durable
from rlhf.config.editing import edited, set_params
from rlhf.config.reading import PARAMS, look_up, parse_yaml
from rlhf.pipeline.lock import hold

LENT = Path(".rlhf/lent.json")


@contextmanager
def hold_workspace(workspace: Path) -> Iterator[None]:
    """Hold a workspace while something runs in it, or beside which nothing may. Raises Busy, which names the holder."""
    with hold(workspace / ".rlhf" / "run.lock", f"The workspace {workspace}"):
        _set_back(workspace)
        yield


@contextmanager
def lent(workspace: Path, assignments: Sequence[str]) -> Iterator[None]:
    """params.yaml of a workspace that is held, with `assignments` as `set_params` takes them. Raises ConfigError."""
    before = (workspace / PARAMS).read_text(encoding="utf-8")
    durable.write_json(workspace / LENT, {"before": before, "assignments": list(assignments)})
    try:
        set_params(workspace / PARAMS, assignments)
        yield
    finally:
        _set_back(workspace)


def _set_back(workspace: Path) -> None:
    """What somebody has edited meanwhile stays so, but for the values that were lent."""
    if not (workspace / LENT).exists():
        return
    note = json.loads((workspace / LENT).read_text(encoding="utf-8"))
    before, assignments = str(note["before"]), list[str](note["assignments"])
    if (workspace / PARAMS).read_text(encoding="utf-8") in (before, edited(before, assignments)):
        durable.write_text(workspace / PARAMS, before)
    else:
        keys, tree = [assignment.partition("=")[0] for assignment in assignments], parse_yaml(before, PARAMS)
        set_params(workspace / PARAMS, [f"{key}={json.dumps(look_up(tree, key))}" for key in keys])
    (workspace / LENT).unlink()
