"""Room on the disk, looked for before a stage begins: better refused at once than ended after hours."""

from pathlib import Path

from rlhf.errors import require_free
from rlhf.pipeline.graph import StageSpec
from rlhf.tracking.outputs import DvcLock

MARGIN = 1.2  # of what the outputs took the last time


def require_room(workspace: Path, spec: StageSpec) -> None:
    """Raises DiskFull where less is free than the stage's outputs took when they were made last, and some.

    Of its first run nothing is known here; what checkpoints take, training itself requires
    (rlhf/training/checkpoint.py).
    """
    outs = DvcLock(workspace).stages.get(spec.name, {}).get("outs", ())
    needed = MARGIN * sum(out.get("size", 0) for out in outs)
    require_free(workspace, needed, f"the outputs of `{spec.name}` will take about", "nothing was begun")
