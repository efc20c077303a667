"""The flow `scrub`: what `rlhf scrub` does, at night."""

from pathlib import Path

from prefect import flow
from prefect.states import Completed, Failed, State

from rlhf.errors import Exit
from rlhf.pipeline import scrub as work
from rlhf.pipeline.workspace import SCHEDULED


@flow(name="scrub", persist_result=False)
def scrub(workspace: str = ".") -> State:
    """Read all that a workspace keeps and mend what can be mended; fails where damage remains. Raises Busy."""
    found = list(work.scrub(Path(workspace).resolve(), mend=True, progress=lambda *_: None, patience=SCHEDULED))
    damaged = [damage for one in found for damage in one.damaged]
    said = "; ".join(map(str, damaged))
    if all(damage.mended for damage in damaged):
        return Completed(message=said or f"{sum(one.count for one in found)} things are whole")
    return Failed(message=f"{Exit.DATA.name}: {said}")
