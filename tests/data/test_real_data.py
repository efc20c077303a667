"""Data that people outside this project wrote: quarantine finds exactly the defects that are known of it."""

from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from rlhf.data import report as checks
from rlhf.data.agreement import krippendorff_alpha
from rlhf.data.conversions import to_rankings
from rlhf.data.prompts import with_hashes
from rlhf.data.quarantine import check
from rlhf.data.sources.files import read_records
from tests.data.frames import DATA, LIMITS, frame, gave

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there; RLHF_DATA names another folder")

PANDALM = {
    "table": "comparisons",
    "columns": {
        "prompt": "{instruction}\n\n{input}",
        "first": "response1",
        "second": "response2",
        "winner": ["annotator1", "annotator2", "annotator3"],
    },
}


def faults(bad: pd.DataFrame) -> dict[str, list[int]]:
    """Places of the rows that failed, by reason."""
    named = bad.explode("reasons").groupby("reasons")["row"].agg(sorted)
    return {str(reason): list(rows) for reason, rows in named.items()}


def test_hh_harmless() -> None:
    collected = gave(DATA, kind="dialogues", path="hh-harmless/test.jsonl.gz")
    rows = frame(collected, "comparisons")
    kept, bad = check("comparisons", rows, 20_000)
    assert len(rows) == 2312
    assert faults(bad) == {
        "empty chosen response": [86, 516, 925, 1103],
        "chosen and rejected do not share the context": [1254, 1688, 1950, 1952, 2036],
        "roles do not alternate in chosen": [667, 763, 1254, 1319, 1688, 1849, 1952, 2036],
        "roles do not alternate in rejected": [667, 763, 1319, 1849, 1950],
    }
    assert len(bad) == 13
    assert sorted({len(prompt) + 1 for prompt in kept["prompt"]})[-1] == 18 * 2
    assert round(checks.length_bias({"comparisons": rows})["comparisons"]["better_is_longer"], 3) == 0.442
    assert checks.duplicates("comparisons", with_hashes(rows))["prompts"] == 2
    _, bad = check("demonstrations", frame(collected, "demonstrations"), 20_000)
    assert faults(bad) == {
        "empty response": [86, 516, 925, 1103],
        "roles do not alternate": [667, 763, 1254, 1319, 1688, 1849, 1952, 2036],
    }


def test_oasst() -> None:
    collected = gave(DATA, kind="trees", path="oasst/en_100_tree.jsonl")
    rows = frame(collected, "rankings")
    _, bad = check("rankings", rows, 20_000)
    assert {reason: len(places) for reason, places in faults(bad).items()} == {
        "rank is missing": 1,
        "responses are identical": 2,
    }
    assert len(bad) == 3
    ranked = rows[rows["ranks"].map(lambda ranks: not np.isnan(ranks).any())]
    assert Counter(ranked["responses"].map(len)) == {2: 57, 3: 116, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    assert len(checks.pairs({"rankings": with_hashes(ranked)})) == 751
    assert round(checks.length_bias({"rankings": ranked})["rankings"]["better_is_longer"], 3) == 0.801
    assert collected.counts["synthetic"] == 22
    for table in ("demonstrations", "prompts"):
        assert check(table, frame(collected, table), 20_000)[1].empty


def test_pandalm() -> None:
    rows = frame(gave(DATA, kind="file", path="pandalm/testset-v1.json", **PANDALM), "comparisons")
    kept, bad = check("comparisons", rows, 20_000)
    found = faults(bad)
    not_text = found.pop("chosen response is not text") + found.pop("rejected response is not text")
    assert Counter(not_text) == dict.fromkeys((157, 158, 159, 161, 162, 164), 3)
    empty = Counter(found.pop("empty chosen response") + found.pop("empty rejected response"))
    assert len(empty) == 54
    assert set(empty.values()) == {3}
    assert found == {}
    assert len(kept) + len(bad) == 999 * 3
    assert rows["prompt"].map(lambda prompt: prompt[0]["content"]).nunique() == 170


def test_pandalm_votes() -> None:
    """Cohen's kappa of every two annotators, how often all three agree, and alpha from its definition."""
    answers = [record["response1"] for record in read_records(DATA / "pandalm/testset-v1.json", LIMITS)]
    votes: dict[str, list[int]] = {}
    for row in gave(DATA, kind="file", path="pandalm/testset-v1.json", **PANDALM).tables["comparisons"]:
        first = row["chosen"] == (answers[row["row"]] if answers[row["row"]] is not True else "true")
        votes.setdefault(row["annotator"], []).append(0 if row["tie"] else 1 if first else 2)
    assert [round(kappa(*pair), 3) for pair in combinations(votes.values(), 2)] == [0.852, 0.879, 0.862]
    units = list(zip(*votes.values(), strict=True))
    assert sum(len(set(unit)) == 1 for unit in units) == 879
    observed = sum(a != b for unit in units for a, b in permutations(unit, 2)) / (6 * len(units))
    counts = Counter(value for unit in units for value in unit)
    expected = 1 - sum(n * (n - 1) for n in counts.values()) / (2997 * 2996)
    flat = pd.DataFrame(
        [(place, value) for place, unit in enumerate(units) for value in unit], columns=["unit", "vote"]
    )
    alpha, judgements = krippendorff_alpha(flat["unit"], flat["vote"], "nominal")
    assert alpha == pytest.approx(1 - observed / expected, abs=1e-12)
    assert judgements == 2997


def kappa(one: list[int], other: list[int]) -> float:
    """Cohen's kappa."""
    agreed = sum(map(int.__eq__, one, other)) / len(one)
    chance = sum(one.count(value) * other.count(value) for value in (0, 1, 2)) / len(one) ** 2
    return (agreed - chance) / (1 - chance)


def test_pandalm_becomes_rankings_of_two() -> None:
    kept, _ = check(
        "comparisons", frame(gave(DATA, kind="file", path="pandalm/testset-v1.json", **PANDALM), "comparisons"), 20_000
    )
    rankings, left_out = to_rankings({"comparisons": kept})
    assert left_out == {}
    assert len(rankings) == len(kept)
    assert sum(ranks == [1, 1] for ranks in rankings["ranks"]) == kept["tie"].sum()


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        (
            "self-instruct/seed_tasks.jsonl",
            {"prompt": "{instruction}\n\n{instances.0.input}", "response": "instances.0.output"},
            175,
        ),
        ("gsm8k/train.jsonl.gz", {"prompt": "question", "response": "answer"}, 7473),
    ],
)
def test_demonstrations(name: str, columns: dict[str, str], rows: int) -> None:
    collected = gave(DATA, kind="file", path=name, table="demonstrations", columns=columns)
    kept, bad = check("demonstrations", frame(collected, "demonstrations"), 20_000)
    assert (len(kept), len(bad)) == (rows, 0)


def test_thumbs_of_model_solutions() -> None:
    for model, correct in (("6b_finetuning", 0.217), ("6b_verification", 0.390)):
        columns = {"prompt": "question", "response": f"{model}.solution", "thumb": f"{model}.is_correct"}
        collected = gave(
            DATA, kind="file", path="gsm8k/example_model_solutions.jsonl.gz", table="thumbs", columns=columns
        )
        kept, bad = check("thumbs", frame(collected, "thumbs"), 20_000)
        assert (len(kept), len(bad)) == (1319, 0)
        assert round(kept["thumb"].mean(), 3) == correct


def test_plain_text() -> None:
    texts = frame(gave(DATA, kind="text", path="tinyshakespeare/input.txt"), "texts")
    assert check("texts", texts, 20_000)[1].empty
    lines = (DATA / "tinyshakespeare/input.txt").read_text().split("\n")
    assert "\n".join(texts["text"]).split("\n") == [line for line in lines if line.strip()]
