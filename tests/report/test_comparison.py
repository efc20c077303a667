"""The table of `rlhf compare` from the reports of a workspace, by hand."""

import dataclasses
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rlhf.cli.compare import render
from rlhf.gate.records import Interval
from rlhf.report import plots
from rlhf.report.comparison import DATA, PAGE, PICTURE, Trial, compared, read_trials, spread, write
from rlhf.tracking.journal import Journal
from tests.algorithms.tiny import PARAMS
from tests.gate.test_frontier import place
from tests.report.conftest import evaluation, write_json

INTERVALS = [{"value": value, "low": value - 0.1, "high": value + 0.1, "n": 60} for value in (0.5, 2.0)]

DISTANCE = dict(zip(("policy", "sft"), INTERVALS, strict=True))
GROUPS = dict(zip(("coast", "inland"), INTERVALS, strict=True))
HELD = {"beliefs": {"distance": DISTANCE, "minority_margin": None, "majority_margin": INTERVALS[1]}, "groups": GROUPS}


def trial(algorithm: str, seed: int, kl: float, sign: float = 1.0, gold: bool = True) -> Trial:
    """A path along which the reward model's gain is the distance, and gold's half of that."""
    path = [place(part * part * kl, sign * part * kl**0.5, sign * part * kl**0.5 / 2) for part in (0.3, 0.6, 1.0)]
    path = path if gold else [dataclasses.replace(one, gold=None) for one in path]
    return Trial(
        algorithm=algorithm,
        seed=seed,
        gradient_noise=2.0 + seed,
        wins={f"prompt {number}": float(number % 4 > 0) for number in range(40)},
        proxy_gain=path[-1].proxy.value,
        gold_gain=path[-1].gold.value if path[-1].gold else None,
        kl=kl,
        length=12.0,
        distinct_2=1.1,
        seconds=20.0,
        peak_memory=5e8,
        path=path,
        beliefs={},
        groups={},
    )


def test_a_line_has_mean_and_range_and_what_the_algorithm_needs() -> None:
    table = compared([trial("ppo", 0, 4.0), trial("dpo", 0, 1.0, gold=False), trial("ppo", 1, 9.0)], {}, PARAMS)
    ppo, dpo = table.lines
    assert (ppo.trials, ppo.reward_model, ppo.critic) == (2, True, True)
    assert (dpo.trials, dpo.reward_model, dpo.critic) == (1, False, False)
    assert ppo.kl == spread([4.0, 9.0])
    assert (ppo.kl.mean, ppo.kl.low, ppo.kl.high) == (6.5, 4.0, 9.0)
    assert ppo.gradient_noise == spread([2.0, 3.0])
    assert dpo.gold_gain is dpo.gold_at_equal_kl is dpo.overoptimization is None


@pytest.mark.parametrize("gold", [True, False])
def test_gold_is_drawn_and_spoken_of_where_it_is_known(gold: bool) -> None:
    figure = plots.frontier({"dpo": [trial("dpo", 0, 1.0, gold=gold).path]}, {}, 1.0)
    assert ("gold" in figure.description) == ("By gold" in figure.svg) == gold


def test_gains_are_compared_at_the_kl_that_every_training_reached() -> None:
    table = compared([trial("ppo", 0, 4.0), trial("ppo", 1, 9.0, sign=-1.0), trial("ipo", 0, 1.44)], {}, PARAMS)
    assert table.equal_kl == pytest.approx(1.44)
    ppo, ipo = table.lines
    for line, mean, low in ((ppo, 0.0, -1.2), (ipo, 1.2, 1.2)):
        assert line.proxy_at_equal_kl
        assert line.gold_at_equal_kl
        assert (line.proxy_at_equal_kl.mean, line.proxy_at_equal_kl.low) == pytest.approx((mean, low))
        assert (line.gold_at_equal_kl.mean, line.gold_at_equal_kl.high) == pytest.approx((mean / 2, 0.6))


def test_another_training_on_the_same_prompts_narrows_no_win_rate() -> None:
    alone, thrice = (compared([trial("ppo", seed, 4.0) for seed in range(n)], {}, PARAMS).lines[0] for n in (1, 3))
    assert alone.win_rate == thrice.win_rate
    assert alone.win_rate.value == 0.75
    assert alone.win_rate.n == 40
    assert alone.win_rate.low < 0.65


def test_a_win_rate_of_a_few_prompts_has_the_exact_interval() -> None:
    """As the evaluation has it: 5 of 5 prompts won leave a chance of 0.025^(1/5) to lose."""
    few = dataclasses.replace(trial("ppo", 0, 4.0), wins={f"prompt {number}": 1.0 for number in range(5)})
    found = compared([few], {}, PARAMS).lines[0].win_rate
    assert (found.high, found.n) == (1.0, 5)
    assert found.low == pytest.approx(((1 - PARAMS.gate.confidence) / 2) ** (1 / 5))


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    shown = io.StringIO()
    Console(file=shown, width=80).print(render(compared([trial("actor_critic", 0, 99.0, -1.0)], {}, PARAMS)))
    assert "…" not in shown.getvalue()
    assert "-4.97–-4.97" in shown.getvalue()


def test_trials_are_read_from_reports_and_the_journal(workspace: Path) -> None:
    along = [{"kl": point, "proxy": point, "gold": None} for point in INTERVALS]
    for name in ("ppo", "dpo"):
        write_json(workspace / "models/policy" / name / "receipt.json", {"key": f"key-{name}"})
        rows = workspace / "reports/evaluate" / name / "rows/rows.parquet"
        pq.write_table(pa.table({"prompt_id": ["a", "b"], "points_sft": [0.5, 0.0]}), rows)
        write_json(workspace / "reports/evaluate" / name / "metrics.json", evaluation(name) | {"path": along} | HELD)
    noise = {"steps": 8, "mean_square": 0.5, "variance": 3.0}
    write_json(workspace / "reports/align/ppo/metrics.json", {"gradient_noise": noise})
    write_json(workspace / "reports/align/dpo/metrics.json", {"gradient_noise": noise | {"mean_square": -0.1}})
    with Journal(workspace / ".work/key-ppo/journal.jsonl") as journal:
        journal.write("end", status="failed", seconds=1.0, aside=0.5, peak_memory=1)
        journal.write("end", status="done", seconds=12.5, aside=2.5, peak_memory=700)
    ppo, dpo = read_trials(workspace, ["ppo", "dpo"], 7)
    metrics = evaluation("ppo")
    assert (ppo.seed, ppo.seconds, ppo.peak_memory) == (7, 10.0, 700)
    assert ppo.proxy_gain == metrics["proxy_reward"]["policy"] - metrics["proxy_reward"]["sft"]
    assert ppo.kl == metrics["kl"]["value"]
    assert ppo.wins == {"a": 0.5, "b": 0.0}
    assert [(one.kl.value, one.proxy.n, one.gold) for one in ppo.path] == [(0.5, 60, None), (2.0, 60, None)]
    assert (ppo.gradient_noise, dpo.gradient_noise) == (6.0, None)
    known = {name: figure.value for name, figure in ppo.beliefs.items()}
    assert known == {"distance": 0.5, "sft_distance": 2.0, "majority_margin": 2.0}
    assert ppo.groups == {"coast": 0.5, "inland": 2.0}
    assert dpo.seconds is dpo.peak_memory is None


def test_the_page_and_the_figures_behind_it(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    write(tmp_path, [trial("ppo", 0, 9.0), trial("dpo", 0, 4.0), trial("kto", 0, 4.0, gold=False)], {}, PARAMS)
    page = (tmp_path / PAGE).read_text()
    assert page.count('<tr><th scope="row">') == 6
    assert page.count("no peak within reach, up to a KL of") == 2
    assert page.count("too few policies with a known gold reward") == 1
    assert "Gold at<br>KL 4" in page
    assert "Gradient<br>noise" in page
    assert "<svg" in page
    assert ElementTree.parse(tmp_path / PICTURE).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    data = json.loads((tmp_path / DATA).read_text())
    assert data["equal_kl"] == pytest.approx(4.0)
    assert set(data["lines"][0]["overoptimization"]) == {"alpha", "beta", "peak_kl", "reached_kl"}
    assert data["trials"][0]["path"][0]["gold"]["n"] == 500
    assert "Left out" not in page
    assert "people believe" not in page
    assert "Groups of people" not in page


def test_an_algorithm_that_was_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    table = write(tmp_path, [trial("dpo", 0, 4.0)], {"gr_dpo": "all are of <b>"}, PARAMS)
    assert "<li><strong>GR-DPO</strong>: all are of &lt;b&gt;</li>" in (tmp_path / PAGE).read_text()
    assert json.loads((tmp_path / DATA).read_text())["left_out"] == table.left_out == {"gr_dpo": "all are of <b>"}


def test_beliefs_have_a_table_where_people_were_polled(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    held = {"distance": Interval(0.4321, 0.4, 0.5, 30), "sft_distance": Interval(0.5, 0.4, 0.6, 30)}
    trials = [trial("dpo", 0, 4.0), trial("gdpo_belief", 0, 4.0)]
    write(tmp_path, [dataclasses.replace(one, beliefs=held) for one in trials], {}, PARAMS)
    page = (tmp_path / PAGE).read_text()
    assert page.count("0.432\n<small>0.432 to 0.432</small>") == 2
    line = json.loads((tmp_path / DATA).read_text())["lines"][1]["beliefs"]
    assert line["sft_distance"]["mean"] == 0.5
    assert line["minority_margin"] is None


def test_groups_have_a_column_each_and_a_dash_where_one_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    followed = [{"coast": 0.6, "<b>": 0.75}, {"coast": 0.7, "<b>": 0.85}, {"coast": 0.8}]
    trials = [trial("dpo", 0, 4.0), trial("dpo", 1, 4.0), trial("gr_dpo", 0, 4.0)]
    made = [dataclasses.replace(one, groups=groups) for one, groups in zip(trials, followed, strict=True)]
    write(tmp_path, made, {}, PARAMS)
    page = (tmp_path / PAGE).read_text()
    assert '<th scope="col">&lt;b&gt;</th><th scope="col">coast</th>' in page
    assert "80.0\n<small>75.0 to 85.0</small>" in page
    dpo, robust = json.loads((tmp_path / DATA).read_text())["lines"]
    assert dpo["groups"]["coast"]["mean"] == pytest.approx(0.65)
    assert robust["groups"]["<b>"] is None
