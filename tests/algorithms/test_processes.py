"""What nothing is learned from, to sample and to score, is done once by all processes together."""

import json
from pathlib import Path

import numpy as np

from tests.algorithms.sharing import found, keep
from tests.algorithms.test_invariants import launch_two


def test_two_processes_share_what_one_does(sft: Path, tmp_path: Path) -> None:
    """Both know the whole, and neither does what the other did."""
    done = launch_two("sharing", sft, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    work, other = first.pop("work"), second.pop("work")
    assert first == second
    assert first.pop("squares") == [[0, 0], [1, 1], [0, 4], [1, 9], [0, 16]]
    assert first.pop("nothing") == []
    assert first.pop("everywhere") == [True, False, False, False]
    keep(tmp_path / "one")
    one = found(sft, tmp_path / "one")
    assert one.pop("work") == {name: work[name] + other[name] for name in work} | {"few batches": 1, "kept": 0}
    assert work == {"few batches": 1, "many batches": 2, "rankings": 2, "turns": 3, "kept": 1, "critic": 2}
    assert other == {"few batches": 1, "many batches": 2, "rankings": 1, "turns": 2, "kept": 1, "critic": 2}
    for name in ("few batches", "many batches"):
        assert first.pop(name) == one.pop(name), name
    assert one.pop("kept") == 1 != first.pop("kept")  # the file was there; of two processes, one had none
    for name, values in one.items():
        np.testing.assert_allclose(np.array(first[name]), values, rtol=1e-5, atol=1e-6, err_msg=name)
