"""Room on the disk, looked for before a stage begins: better refused at once than ended after hours."""

import shutil
from pathlib import Path

from rlhf.errors import DiskFull
from rlhf.pipeline.graph import StageSpec
from rlhf.tracking.outputs import DvcLock

MARGIN = 1.2  # of what the outputs took the last time


def require_room(workspace: Path, spec: StageSpec) -> None:
    """Raises DiskFull where less is free than the stage's outputs took when they were made last, and some.

    Of its first run nothing is known here; what checkpoints take, training itself requires
    (rlhf/training/checkpoint.py).
    """
    outs = DvcLock(workspace).stages.get(spec.name, {}).get("outs", ())
    needed, free = MARGIN * sum(out.get("size", 0) for out in outs), shutil.disk_usage(workspace).free
    if free < needed:
        raise DiskFull(
            f"{free / 1e6:,.0f} MB are free for {workspace}, and the outputs of `{spec.name}` will take about "
            f"{needed / 1e6:,.0f} MB. Make room and run again; nothing was begun"
        )
