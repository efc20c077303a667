"""A workspace that is held, and its params.yaml, which one run may have with other values.

They are set back when that run ends; where it was killed, by whoever holds the workspace next.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf import durable
from rlhf.config import load_config
from rlhf.config.editing import edited, set_params, write_params
from rlhf.config.reading import PARAMS, look_up, parse_yaml
from rlhf.errors import DataError
from rlhf.locks import hold

LENT = Path(".rlhf/lent.json")
SCHEDULED = 6 * 3600.0  # seconds that a scheduled flow waits for a workspace that another holds


@contextmanager
def hold_workspace(workspace: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a workspace while something runs in it, or beside which nothing may. Raises Busy, which names the holder,
    where that goes on for `patience` seconds."""
    with hold(workspace / ".rlhf" / "run.lock", f"The workspace {workspace}", patience):
        _set_back(workspace)
        yield


@contextmanager
def lent(workspace: Path, assignments: Sequence[str]) -> Iterator[None]:
    """params.yaml of a workspace that is held, with `assignments` as `set_params` takes them. Raises ConfigError."""
    load_config(workspace / PARAMS)  # what is wrong already is told first
    before = (workspace / PARAMS).read_text(encoding="utf-8")
    after = edited(before, assignments)
    durable.write_json(workspace / LENT, {"before": before, "after": after, "assignments": list(assignments)})
    try:
        write_params(workspace / PARAMS, after)
        yield
    finally:
        _set_back(workspace)


def _set_back(workspace: Path) -> None:
    """What somebody has edited meanwhile stays so, but for the values that were lent."""
    if not (workspace / LENT).exists():
        return
    try:
        note = json.loads((workspace / LENT).read_text(encoding="utf-8"))
        before, after, assignments = (note[name] for name in ("before", "after", "assignments"))
    except (ValueError, LookupError, TypeError):
        raise DataError(
            f"{workspace / LENT} is damaged, which holds params.yaml as it was before `rlhf compare`. Look whether "
            "params.yaml says what you want, and delete the file"
        ) from None
    if (workspace / PARAMS).read_text(encoding="utf-8") in (before, after):
        write_params(workspace / PARAMS, before)
    else:
        keys = [assignment.partition("=")[0] for assignment in assignments]
        tree = parse_yaml(before, PARAMS)
        set_params(workspace / PARAMS, [f"{key}={json.dumps(look_up(tree, key))}" for key in keys])
    (workspace / LENT).unlink()
