"""What an MLflow store has confirmed: kept apart for each store, so that a new one, or a deleted one, gets everything.

It is a saving, not a truth: every entry is checked against the store before it is believed, and losing the file costs
only sending again, which changes nothing in the store. A damaged one could have records passed over: it carries the
SHA-256 of what it says, and one that is not whole is as good as none.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlhf import durable
from rlhf.manifest import json_digest

DATABASE = "mlflow.db"  # in a workspace: its own store


@dataclass
class Confirmed:
    """How much of one journal the store has."""

    run: str  # MLflow's run id
    first: str  # start of the journal's first line: which journal it was
    offset: int = 0  # bytes of the journal whose records are stored
    status: str = ""  # last status that was set
    linked: list[str] = field(default_factory=list)  # digests of the models whose edges to the run are drawn


@dataclass
class Sent:
    """State of one workspace towards one store."""

    path: Path
    journals: dict[str, Confirmed] = field(default_factory=dict)  # by path in the workspace
    versions: dict[str, str] = field(default_factory=dict)  # stage key: "small-sft/3"

    def save(self) -> None:
        """Write the state, whole or not at all. The one process that sends does so."""
        state = {"journals": {name: asdict(entry) for name, entry in self.journals.items()}, "versions": self.versions}
        durable.make_private(self.path.parent)
        durable.write_json(self.path, {**state, "sha256": json_digest(state)})


def load_sent(workspace: Path) -> Sent:
    """The state towards the store that `tracking_uri` names; empty when nothing was sent, or the file is damaged."""
    path = workspace / ".rlhf/sent" / f"{hashlib.sha256(tracking_uri(workspace).encode()).hexdigest()[:16]}.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state.pop("sha256") != json_digest(state):
            return Sent(path)
        journals = {name: Confirmed(**entry) for name, entry in state["journals"].items()}
        return Sent(path, journals, state["versions"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Sent(path)


def registered_versions(workspace: Path) -> Mapping[str, str]:
    """{stage key: registered version} as last confirmed; asks no server."""
    return load_sent(workspace).versions


def tracking_uri(workspace: Path) -> str:
    """The MLflow store: MLFLOW_TRACKING_URI, or a SQLite file in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_store(workspace)


def own_store(workspace: Path) -> str:
    """The SQLite file in the workspace, which is copied with it."""
    return f"sqlite:///{workspace.resolve() / DATABASE}"
