"""The table of `rlhf compare` from the reports of a workspace, by hand."""

from pathlib import Path

import pytest

from rlhf.report.comparison import PAGE, Trial, lines, read_trials, spread, write
from rlhf.tracking.journal import Journal
from tests.algorithms.tiny import PARAMS
from tests.report.conftest import evaluation, write_json


def trial(algorithm: str, seed: int, gold: float | None, kl: float) -> Trial:
    return Trial(
        algorithm=algorithm,
        seed=seed,
        win_rate=0.7,
        proxy_gain=1.0,
        gold_gain=gold,
        kl=kl,
        length=12.0,
        distinct_2=1.1,
        seconds=20.0,
        peak_memory=5e8,
    )


def test_a_line_has_mean_and_range_and_what_the_algorithm_needs() -> None:
    trials = [trial("ppo", 0, 0.4, 4.0), trial("dpo", 0, None, 1.0), trial("ppo", 1, 0.9, 9.0)]
    ppo, dpo = lines(trials, PARAMS)
    assert (ppo.trials, ppo.reward_model, ppo.critic) == (2, True, True)
    assert (dpo.trials, dpo.reward_model, dpo.critic) == (1, False, False)
    assert ppo.kl == spread([4.0, 9.0])
    assert (ppo.kl.mean, ppo.kl.low, ppo.kl.high) == (6.5, 4.0, 9.0)
    assert ppo.gold_at_distance
    assert (ppo.gold_at_distance.low, ppo.gold_at_distance.high) == pytest.approx((0.2, 0.3))
    assert dpo.gold_gain is dpo.gold_at_distance is None
    assert lines([trial("ppo", 0, 0.1, -0.001)], PARAMS)[0].gold_at_distance is None


def test_trials_are_read_from_reports_and_the_journal(workspace: Path) -> None:
    for name in ("ppo", "dpo"):
        write_json(workspace / "models/policy" / name / "receipt.json", {"key": f"key-{name}"})
    with Journal(workspace / ".work/key-ppo/journal.jsonl") as journal:
        journal.write("end", status="failed", seconds=1.0, peak_memory=1)
        journal.write("end", status="done", seconds=12.5, peak_memory=700)
    ppo, dpo = read_trials(workspace, ["ppo", "dpo"], 7)
    metrics = evaluation("ppo")
    assert (ppo.seed, ppo.seconds, ppo.peak_memory) == (7, 12.5, 700)
    assert ppo.proxy_gain == metrics["proxy_reward"]["policy"] - metrics["proxy_reward"]["sft"]
    assert ppo.kl == metrics["kl"]["value"]
    assert dpo.seconds is dpo.peak_memory is None
    table = write(workspace, [ppo, dpo], PARAMS)
    assert [line.seconds is None for line in table] == [False, True]
    page = (workspace / PAGE).read_text()
    assert page.count('<tr><th scope="row">') == 2
    assert "PPO" in page
    assert "<svg" in page
