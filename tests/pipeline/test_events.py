"""What a supervisor makes of what the processes of a stage tell."""

from pathlib import Path

import pytest

from rlhf.errors import Exit
from rlhf.pipeline.events import EVENTS, Events, Listener


@pytest.mark.parametrize(
    ("codes", "counts"),
    [([0, 0], 0), ([10, 21], 10), ([0, 21, 10], 21)],
)
def test_of_several_processes_the_first_that_failed_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], counts: int
) -> None:
    """The others are ended for it, and tell that they were."""
    listener = Listener(tmp_path, "sft", lambda *_: None)
    monkeypatch.setenv(EVENTS, str(listener.file))
    for process, code in enumerate(codes):
        Events("sft").emit("exit", code=code, message=f"process {process}")
        listener.read()
    assert listener.end == (Exit(counts), f"process {codes.index(counts) if counts else len(codes) - 1}")
