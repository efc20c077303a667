"""What a workspace is called in MLflow, drawn once and kept in .rlhf/workspace: a move takes it along.

A copy has it too. With the store in the workspace it has a copy of the records as well, and goes on with them. On a
server it would write the runs of the first, so it gets an identity of its own, as a clone has.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from rlhf import durable
from rlhf.errors import DataError
from rlhf.locks import hold
from rlhf.tracking.sent import own_store, tracking_uri

FILE = ".rlhf/workspace"
_LONGEST = 200  # characters of an experiment: MLflow keeps 256 of a model's name, which goes on


@dataclass(frozen=True)
class Identity:
    """What tells a workspace from others of a store."""

    id: str  # of its runs
    experiment: str  # registered models are `<experiment>-sft`, ...
    place: str  # where the workspace lay when it was drawn, or when it was last sent to a server


def identity(workspace: Path) -> Identity:
    """The identity of a workspace, drawn when it has none. Raises DataError when the file is damaged."""
    file, here = workspace / FILE, workspace.resolve()
    alone = tracking_uri(workspace) == own_store(workspace)
    with hold(workspace / ".rlhf/identity.lock", f"The file {file}", 60.0):
        known = _read(file)
        if known and (alone or known.place == str(here)):
            return known
        if known is None or _is_copy(known, here):
            known = Identity(uuid4().hex, model_safe(here.name), str(here))
        durable.write_json(file, asdict(known) | {"place": str(here)})
        return known


def experiment_name(own: Identity) -> str:
    """RLHF_EXPERIMENT, or the name that the directory had when the workspace was first sent."""
    return model_safe(os.environ.get("RLHF_EXPERIMENT") or own.experiment)


def model_safe(name: str) -> str:
    """`name` without what MLflow refuses in the name of a model, or does not find again: m:v becomes m.v."""
    safe = re.sub(r"[^\w. -]", ".", name).strip(" .")[:_LONGEST]
    return safe or "workspace"


def _read(file: Path) -> Identity | None:
    try:
        return Identity(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise DataError(
            f"{file} is damaged. Delete it: the next `rlhf sync` draws another, and sends everything as another's"
        ) from None


def _is_copy(known: Identity, here: Path) -> bool:
    """Whether the workspace that was named is still where it was: then this one is not it."""
    try:
        there = _read(Path(known.place, FILE))
        return there is not None and there.id == known.id and not here.samefile(known.place)
    except (OSError, DataError):
        return False
