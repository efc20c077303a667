"""The benchmark's own promises: what computes something else has no time, and the table is made from the file."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.parquet import read_table

from benchmarks import costs, results
from benchmarks.costs import Cost, Costs
from benchmarks.feedback import write_comparisons
from benchmarks.growth import Curve
from benchmarks.jobs import ONLINE, Job, Lengths
from benchmarks.measure import compare
from benchmarks.results import BEGIN, FINISH, Results, Row, load, markdown_table, write_page
from rlhf.data.tables import raw_columns

JOB = Job("reward", "small", 2_000, Lengths(4, 6, 9), Lengths(2, 4, 6), batch=4, steps=3, warmup=1)


@pytest.mark.skipif(not find_spec("trl"), reason="TRL is not installed")
def test_a_peer_that_learns_otherwise_is_an_error() -> None:
    from benchmarks import ours, peer

    here, there = ours.measure(JOB), peer.measure(JOB, True)
    worst, error = compare({"ours": here.overlay, "tuned": there.overlay}, 1e-5)
    assert (set(worst), error) == ({"loss", "grad_norm"}, "")
    assert here.units == there.units == 8
    assert here.tokens == there.tokens
    other = peer.measure(replace(JOB, learning_rate=1e-3), True)
    assert compare({"ours": here.overlay, "tuned": other.overlay}, 1e-5)[1].startswith("loss differs from TRL tuned")


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("stage", ONLINE)
def test_our_side_learns_from_given_answers_and_from_sampled_ones(stage: str, recorded: bool) -> None:
    from benchmarks import ours

    seen = ours.measure(replace(JOB, stage=stage, recorded=recorded, answers=1 if stage == "ppo" else 2))
    assert seen.units == 8
    assert all(len(values) == JOB.steps and np.isfinite(values).all() for values in seen.overlay.values())
    assert bool(seen.overlay) is recorded


def test_the_page_holds_what_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(results.PAGE, page)
    write_page(page)
    costs.write_page(page)
    assert page.read_text() == results.PAGE.read_text()


@pytest.mark.parametrize("theirs", [[1.0, 2.0], [1.0, 2.0, 3.1], [1.0, 2.0, float("nan")]])
def test_missing_and_broken_losses_are_errors(theirs: list[float]) -> None:
    assert compare({"ours": {"loss": [1.0, 2.0, 3.0]}, "tuned": {"loss": theirs}}, 1e-5)[1]


def test_the_page_shows_what_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "TRAINING", tmp_path)
    good = Row("sft", "small", "rows", differences={"loss": 1e-7})
    for values in (good.rate, good.tokens, good.peak_mb, good.share):
        values |= {"ours": [30.0, 40.0], "tuned": [10.0, 20.0], "shipped": [5.0, 5.0]}
    made = Results("A CPU, 2 cores", 2, 1e11, {"trl": "1.16.0"}, [good, Row("dpo", "small", "pairs", error="loss")])
    made.save()
    part = [Row("reward", "small", "pairs", error="grad_norm")]  # another part of the jobs, on a machine that was busy
    more = replace(made, rows=part, matmul=5e10)
    more.save()
    more.rows.append(Row("dpo", "small", "pairs", error="grad_norm"))  # and one of those that were there
    more.save()
    kept = load(tmp_path / "a-cpu-2-cores.json")
    assert kept.matmul == 1e11
    assert [(row.stage, row.error) for row in kept.rows] == [("sft", ""), ("dpo", "grad_norm"), ("reward", "grad_norm")]

    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{FINISH}\nafter\n")
    write_page(page, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert markdown_table(load(made.path)) in text
    assert "| 2.50x<br>2.00 to 3.00 | 7.00x<br>6.00 to 8.00 |" in text
    assert "| dpo | small | differs |" in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_page(page, tmp_path)


def test_the_page_shows_what_the_pipeline_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "COSTS", tmp_path / "pipeline")
    rows = [Cost("idle", "s", [7.0, 6.5, 9.0], goal=6.0), Cost("first", "s", [100.0])]
    Costs("A CPU, 2 cores", {"dvc": "3"}, rows).save()
    assert [row.missed for row in rows] == [True, False]
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{costs.BEGIN}\nold\n{costs.FINISH}\nafter\n")
    costs.write_page(page, tmp_path / "pipeline")
    assert (
        page.read_text()
        == f"""before
{costs.BEGIN}
**A CPU, 2 cores; dvc 3; median (minimum to maximum).**

| what | costs | at most |
| --- | --- | --- |
| idle | 7.00 s (6.50 to 9.00) | 6 s |
| first | 100.00 s |  |
{costs.FINISH}
after
"""
    )


def test_the_comparisons_are_the_same_each_time_and_as_collect_writes_them(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_comparisons(tmp_path / name, 2_000)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    rows = read_table(tmp_path / "one")
    assert rows.schema.equals(pa.schema(raw_columns("comparisons")))
    assert rows.num_rows == 2_000


def test_growth_is_a_line() -> None:
    curve = Curve("rows, B", "", [1.0, 2.0, 8.0], [0.030, 0.050, 0.170])
    assert curve.fit == pytest.approx((0.010, 0.020))
    assert str(curve) == "rows, B: 10 ms and 20 ms each"
