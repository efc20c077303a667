"""Groups of people through the stages that align and evaluate."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlhf.config.editing import set_params
from rlhf.errors import DataError
from tasks import align, evaluate
from tests.judgements.stages import PREFERRED, run, write


@pytest.fixture
def grouped(workspace: Path) -> Path:
    """A prompt that the north judged three times and the south once, in either split: they want the opposite."""
    set_params(workspace / "params.yaml", ["align.algorithms=[gr_dpo]", "reward.criteria={overall: 1.0}"])
    rows = pq.read_table(workspace / "data/judgements/rankings.parquet").to_pylist()[:8]
    groups = ["north", "north", "north", "south"] * 2
    ranks = {"north": [1, 2], "south": [2, 1]}
    rows = [
        row
        | {"criterion": "overall", "group": group, "ranks": ranks[group]}
        | {"prompt": rows[0]["prompt"], "responses": [*PREFERRED.values()]}
        for row, group in zip(rows, groups, strict=True)
    ]
    write(workspace, "rankings", rows)
    return workspace


def test_groups_are_weighed_and_measured(grouped: Path) -> None:
    learned = run(grouped, "align@gr_dpo", align)
    assert learned["steps"] == 1
    assert {name: found["rankings"] for name, found in learned["groups"].items()} == {"north": 3, "south": 1}
    weights = [found["weight"] for found in learned["groups"].values()]
    assert weights == pytest.approx([0.5, 0.5], abs=1e-6), "a policy that has not moved loses ln 2 on every ranking"
    found = run(grouped, "evaluate@gr_dpo", evaluate)["groups"]
    assert {name: interval["n"] for name, interval in found.items()} == {"north": 1, "south": 1}
    assert found["north"]["value"] in (0.0, 1.0)
    assert found["south"]["value"] == 1.0 - found["north"]["value"], "one policy cannot please both"


@pytest.mark.parametrize(("name", "told"), [("north", "north"), ("", "no group")])
def test_one_group_has_nobody_to_be_weighed_against(grouped: Path, name: str, told: str) -> None:
    rows = pq.read_table(grouped / "data/judgements/rankings.parquet").to_pylist()
    write(grouped, "rankings", [row | {"group": name} for row in rows])
    with pytest.raises(DataError, match=f"all rankings of the train split are of {told}. Give"):
        run(grouped, "align@gr_dpo", align)


def test_a_group_that_most_steps_would_not_hold_is_refused(grouped: Path) -> None:
    set_params(grouped / "params.yaml", ["align.gr_dpo.loop.batch_size=3", "align.gr_dpo.loop.micro_batch_size=3"])
    with pytest.raises(DataError, match="each step, and south would have less than one of its 3 rankings on average"):
        run(grouped, "align@gr_dpo", align)
