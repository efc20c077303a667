"""The work directory of a stage, .work/<stage key>: its journal and its checkpoints, outside the outputs."""

import re
from pathlib import Path

from rlhf import durable
from rlhf.manifest import RECEIPT
from rlhf.pipeline.graph import StageSpec
from rlhf.tracking.journal import JOURNAL, WORK
from rlhf.tracking.outputs import read_receipt

LOCK = "lock"  # held while the stage runs
LASTING = {JOURNAL, LOCK, "setbacks"}  # there, when the stage is done; the last is rlhf/training/setbacks.py's
KEPT = f"{WORK}/cache"  # of a workspace: what stages keep for each other
REPLIES = f"{WORK}/judge"  # of servers that judge, which were paid for once
_KEY = re.compile("[0-9a-f]{64}")  # of a stage; a receipt that came from elsewhere may name any path


def clear_checkpoints(workspace: Path, spec: StageSpec) -> None:
    """Remove the checkpoints of the work behind a stage's outputs, which DVC has now. What is LASTING stays."""
    for path in spec.outs:
        if (workspace / path / RECEIPT).is_file():
            key = str(read_receipt(workspace / path)["key"])
            work = workspace / WORK / key
            for entry in work.iterdir() if _KEY.fullmatch(key) and work.is_dir() else ():
                if entry.name not in LASTING:
                    durable.remove(entry)
