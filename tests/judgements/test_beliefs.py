"""Beliefs through the stages that align and evaluate, and what they must not read."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlhf.config.editing import set_params
from rlhf.errors import DataError
from tasks import align, evaluate, referee, reward
from tests.judgements.stages import PREFERRED, run, write


def test_beliefs_are_learned_and_measured(polled: Path) -> None:
    learned = run(polled, "align@gdpo_belief", align)
    assert (learned["polls"], learned["polled"]) == (2, 2)
    assert learned["calibration"] > 0
    assert learned["margin"] == pytest.approx(0.0, abs=1e-6), "given a belief both answers are the same"
    found = run(polled, "evaluate@gdpo_belief", evaluate)["beliefs"]
    assert found["stated"] == {"sft": 0.0, "policy": 0.0}, "the tiny model says nothing that makes sense"
    assert found["distance"] == {"sft": None, "policy": None}
    assert found["minority_margin"]["n"] == 4
    assert found["majority_margin"] is None


def test_nothing_that_aligns_reads_what_is_the_referees(polled: Path) -> None:
    """Its rows are such that whoever touches them fails, as the referee does."""
    set_params(polled / "params.yaml", ["align.algorithms=[dpo, ipo, kto, gdpo_belief]"])
    (polled / "reports/label.json").write_text(json.dumps({"criteria": {"overall": {"bayes_accuracy": None}}}))
    seen = pq.read_table(polled / "data/judgements/rankings.parquet").to_pylist()
    write(polled, "rankings", [*seen, *(row | {"split": "referee", "responses": [None, None]} for row in seen[:4])])
    thumbs = [
        {name: row[name] for name in ("prompt", "criterion", "split")} | {"response": answer, "thumb": answer == "one"}
        for row in seen
        for answer in PREFERRED.values()
    ]
    write(polled, "thumbs", [*thumbs, *(row | {"split": "referee", "response": None} for row in thumbs[:4])])
    assert run(polled, "reward@overall", reward)["prompts"] == 4
    for algorithm in ("dpo", "ipo", "kto", "gdpo_belief"):
        assert run(polled, f"align@{algorithm}", align)["steps"] == 1
    with pytest.raises(ValueError, match="text input"):
        run(polled, "referee", referee)


def test_without_a_belief_that_an_answer_states_there_is_nothing_to_calibrate_to(polled: Path) -> None:
    rows = pq.read_table(polled / "data/judgements/beliefs.parquet").to_pylist()
    write(polled, "beliefs", [row | {"statements": ["two is red.", "two is blue."]} for row in rows])
    with pytest.raises(DataError, match="has 2 beliefs, none of which an answer that was ranked states"):
        run(polled, "align@gdpo_belief", align)


def test_rankings_of_ties_alone_are_an_error_and_no_accuracy_of_zero(polled: Path) -> None:
    rows = pq.read_table(polled / "data/judgements/rankings.parquet").to_pylist()
    write(polled, "rankings", [row | {"ranks": [1, 1]} for row in rows])
    with pytest.raises(DataError, match="could measure `accuracy`"):
        run(polled, "align@gdpo_belief", align)
