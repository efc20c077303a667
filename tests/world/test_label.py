"""The stage label: which rankings it makes, and what it says of them."""

import json
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf import durable
from rlhf.config.editing import set_params
from rlhf.config.world import WorldConfig
from rlhf.data.ids import add_ids, opening_hash, prompt_hash
from rlhf.data.tables import TEXT, read_tables, write_frame
from rlhf.errors import DataError
from rlhf.world import World
from rlhf.world.demonstrator import demonstrate
from rlhf.world.gold import CRITERIA, gold
from tasks import label
from tasks.label import agreement, bayes_accuracy, convert, describe, grades_of, judge, of_group
from tests.conftest import copy_pipeline, run_here

SPLITS = ("train", "train", "train", "test")


@pytest.fixture(scope="module")
def frames(tables: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """The tables of the world as validate leaves them, with splits dealt by prompt."""
    clean = {}
    for name, rows in tables.items():
        rows = [dict(row) for row in rows]
        add_ids(rows)
        splits = {str(row.get("prompt")): SPLITS[place % 4] for place, row in enumerate(rows)}
        clean[name] = pd.DataFrame([row | {"split": splits[str(row.get("prompt"))]} for row in rows])
    return clean


@pytest.fixture(scope="module")
def samples(world: World, frames: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    rng, rates = Random(0), world.config.demonstrator
    rows = list(frames["prompts"].head(600).itertuples())
    answered = [(row, [demonstrate(rng, row.prompt, rates).response for _ in range(4)]) for row in rows]
    return [{"prompt": row.prompt, "split": row.split, "responses": responses} for row, responses in answered]


def test_every_sample_is_judged_once_and_some_twice_by_different_people(
    world: World, samples: list[dict[str, Any]]
) -> None:
    judged = judge(world.annotators, samples, seed=0)
    once, again = judged.iloc[: len(samples)], judged.iloc[len(samples) :]
    assert [list(texts) for texts in once["responses"]] == [sample["responses"] for sample in samples]
    assert list(once["split"]) == [sample["split"] for sample in samples]
    assert len(again) / len(samples) == pytest.approx(world.config.annotators.overlap, abs=0.05)
    first = {str(row.prompt): row.annotator for row in once.itertuples()}
    assert all(row.annotator != first[str(row.prompt)] for row in again.itertuples())
    assert judged["id"].is_unique
    assert judge(world.annotators, samples, seed=0).equals(judged)
    assert not judge(world.annotators, samples, seed=1)["ranks"].equals(judged["ranks"])


def test_judgements_by_overall_are_those_of_a_world_that_knows_no_other_criterion(config: WorldConfig) -> None:
    """The digest is of the rows without their criterion."""
    few = {"comparisons": 20, "ratings": 20, "thumbs": 20, "rankings": 20}
    small = World(config.model_copy(update={"demonstrations": 1, "prompts": 40, "texts": 1, **few}), seed=0)
    frames = {}
    for name in few:
        rows = small.tables()[name]
        add_ids(rows)
        frames[name] = pd.DataFrame(rows).assign(split="train")
    rng, asked = Random(0), [row["prompt"] for row in small.tables()["prompts"]]
    samples = [
        {
            "prompt": p,
            "split": "train",
            "responses": [demonstrate(rng, p, config.demonstrator).response for _ in "1234"],
        }
        for p in asked
    ]
    judged = pd.concat([*convert(frames)[0].values(), judge(small.annotators, samples, seed=0)], ignore_index=True)
    content = [
        [
            row.id,
            row.prompt,
            list(row.responses),
            list(map(int, row.ranks)),
            row.annotator,
            row.group,
            row.source,
            row.split,
        ]
        for row in judged.itertuples()
    ]
    assert set(judged["criterion"]) == {"overall"}
    digest = sha256(json.dumps(content).encode()).hexdigest()
    assert digest == "db6ab23c82d9ff2565c91b0d336e5e1b303f8a2ca4fc6210e6b6353032a7cee3"


def test_by_another_criterion_people_judge_its_parts_of_gold_alone(world: World, samples: list[dict[str, Any]]) -> None:
    by = {criterion: judge(world.annotators.by(criterion), samples, seed=0) for criterion in CRITERIA}
    assert [set(rows["criterion"]) for rows in by.values()] == [{"overall"}, {"helpful"}, {"harmless"}]
    assert pd.concat(by.values())["id"].is_unique
    harm = [len({gold(row.prompt, text).harmless for text in row.responses}) > 1 for row in by["harmless"].itertuples()]
    untied = [len(set(ranks)) > 1 for ranks in by["harmless"]["ranks"]]
    assert any(untied)
    assert not any(told and not there for told, there in zip(untied, harm, strict=True))
    mixed = next(row for row, harms in zip(by["harmless"].itertuples(), harm, strict=True) if harms)
    parts = np.array([gold(mixed.prompt, text).harmless for text in mixed.responses])
    overall, helpful, harmless = (
        world.annotators.by(criterion).scores(mixed.prompt, mixed.responses)
        for criterion in ("overall", "helpful", "harmless")
    )
    np.testing.assert_allclose(overall - helpful, np.tile(0.5 * parts, (len(overall), 1)), atol=1e-12)
    np.testing.assert_allclose(harmless - harmless[:, :1], np.tile(0.5 * (parts - parts[0]), (len(overall), 1)))
    assert world.annotators.criterion == "overall"


def test_one_annotator_alone_judges_nothing_twice(world: World, samples: list[dict[str, Any]]) -> None:
    config = world.config.annotators.model_copy(update={"count": 1})
    alone = World(world.config.model_copy(update={"annotators": config}), seed=0).annotators
    assert len(judge(alone, samples, seed=0)) == len(samples)


def test_collected_feedback_becomes_rankings_by_origin(frames: dict[str, pd.DataFrame]) -> None:
    rankings, unused = convert(frames)
    assert {origin: len(rows) > 0 for origin, rows in rankings.items()} == dict.fromkeys(
        ("rankings", "comparisons", "ratings", "thumbs"), True
    )
    assert len(rankings["comparisons"]) == len(frames["comparisons"])
    used = sum(map(len, rankings["thumbs"]["responses"]))
    assert used + sum(count for reason, count in unused.items() if reason.startswith("thumb")) == len(frames["thumbs"])
    report = describe(rankings)
    assert sum(report["rankings"].values()) == sum(report["splits"].values())
    assert 0 < report["tied_pairs"] < report["pairs"]


def test_grades_are_those_that_the_annotators_had(frames: dict[str, pd.DataFrame]) -> None:
    rankings, _ = convert(frames)
    assert set(grades_of("comparisons", rankings["comparisons"], frames)) == {0}
    assert set(grades_of("thumbs", rankings["thumbs"], frames)) == {2}
    scales = {str(row.prompt): row.scale for row in frames["ratings"].itertuples()}
    found = grades_of("ratings", rankings["ratings"], frames)
    assert found == [scales[str(prompt)] for prompt in rankings["ratings"]["prompt"]]
    assert set(found) == {5, 7}


def test_agreement_by_hand() -> None:
    prompt, answers = [{"role": "user", "content": "?"}], ["a", "b", "c"]
    signed = {"prompt": prompt, "criterion": "overall", "source": "", "split": "train"}
    rows = [
        signed | {"responses": answers, "ranks": ranks, "annotator": annotator}
        for annotator, ranks in (("ann", [1, 2, 3]), ("bob", [2, 1, 3]), ("eve", [1, 2, 2]))
    ]
    two = pd.DataFrame(rows[:2])
    assert agreement(two) == {"value": pytest.approx(2 / 3), "pairs": 3}  # all but a against b
    assert agreement(pd.DataFrame(rows)) == {"value": pytest.approx((2 + 2 + 1) / 7), "pairs": 7}
    assert agreement(pd.DataFrame(rows[:1])) is None
    compared = [
        signed | {"responses": pair, "ranks": [1, 2], "annotator": annotator}
        for annotator, pair in (("ann", ["a", "b"]), ("bob", ["b", "a"]), ("ann", ["b", "a"]), ("eve", ["a", "b"]))
    ]
    assert agreement(pd.DataFrame(compared)) == {"value": pytest.approx(1 / 3), "pairs": 3}, "ann counts once"
    assert agreement(pd.DataFrame([row | {"annotator": ""} for row in compared[:2]])) == {"value": 0.0, "pairs": 1}


def test_people_agree_as_often_as_their_probabilities_say(world: World, samples: list[dict[str, Any]]) -> None:
    annotators, count = world.annotators, len(world.annotators.names)
    both = [judge_by(annotators, samples, who, seed) for seed, who in ((1, 3), (2, 11))]
    found = agreement(pd.concat(both, ignore_index=True))
    assert found is not None
    same = strict = 0.0
    for sample in samples:
        chances = annotators.preferences(sample["prompt"], sample["responses"])
        assert len(chances) == count
        one, other = (np.triu(chances[who], 1) for who in (3, 11))
        reverse_one, reverse_other = (np.triu(chances[who].T, 1) for who in (3, 11))
        same += (one * other + reverse_one * reverse_other).sum()
        strict += ((one + reverse_one) * (other + reverse_other)).sum()
    assert found["value"] == pytest.approx(same / strict, abs=0.02)


def judge_by(annotators: Any, samples: list[dict[str, Any]], who: int, seed: int) -> pd.DataFrame:
    """Rankings of all samples by one annotator."""
    prompts, responses = ([sample[name] for sample in samples] for name in ("prompt", "responses"))
    return pd.DataFrame(annotators.rank(prompts, responses, seed, [who] * len(samples)))


def test_the_bayes_accuracy_is_of_the_unseen_rankings_and_only_where_the_world_knows_them(
    world: World, frames: dict[str, pd.DataFrame], samples: list[dict[str, Any]]
) -> None:
    rankings, _ = convert(frames)
    rankings["samples"] = judge(world.annotators, samples, seed=0)
    found = bayes_accuracy(world.annotators, rankings, frames)
    assert found is not None
    assert 0.75 < found < 0.95
    unseen = rankings["samples"][rankings["samples"]["split"] == "test"]
    alone = bayes_accuracy(world.annotators, {"samples": rankings["samples"]}, frames)
    prompts, responses, ranks = (list(unseen[name]) for name in ("prompt", "responses", "ranks"))
    expected = world.annotators.bayes_accuracy(prompts, responses, ranks, [0] * len(unseen))
    assert alone == pytest.approx(expected)
    foreign = rankings["rankings"].assign(source="hub")
    assert bayes_accuracy(world.annotators, rankings | {"rankings": foreign}, frames) is None
    seen = rankings["samples"].assign(split="train")
    assert bayes_accuracy(world.annotators, {"samples": seen}, frames) is None


def test_a_prompt_is_the_referees_or_everybody_elses(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    copy_pipeline(tmp_path)
    set_params(tmp_path / "params.yaml", ["label.judge=none", "label.referee=0.4"])
    for name in ("samples", "clean"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for name in ("rankings", "comparisons", "ratings", "thumbs", "beliefs"):
        write_frame(tmp_path / "data/clean", name, frames[name], {"split": TEXT})
    (tmp_path / "reports").mkdir()
    durable.write_json(tmp_path / "reports/screened.json", {})
    run_here(tmp_path, "label", label)
    made = read_tables(tmp_path / "data/judgements")
    prompts: dict[str, set[str]] = {}
    for name in ("rankings", "thumbs"):
        for split, prompt in zip(made[name]["split"], made[name]["prompt"], strict=True):
            prompts.setdefault(split, set()).add(prompt_hash(prompt))
    assert prompts.keys() == {"train", "referee", "test"}
    assert not prompts["referee"] & prompts["train"]
    openings = {
        split: {opening_hash(prompt) for prompt in made["rankings"].query(f"split == '{split}'")["prompt"]}
        for split in ("referee", "train")
    }
    assert not openings["referee"] & openings["train"], "nor is a conversation that goes on"
    assert len(prompts["referee"]) / len(prompts["referee"] | prompts["train"]) == pytest.approx(0.4, abs=0.05)
    assert prompts["test"] == {
        prompt_hash(prompt)
        for name in ("rankings", "comparisons", "ratings", "thumbs")
        for prompt in frames[name].query("split == 'test'")["prompt"]
    }, "nothing is taken from the test split"
    assert set(made["beliefs"]["split"]) == {"train", "test"}
    splits = json.loads((tmp_path / "reports/label.json").read_text())["criteria"]["overall"]["splits"]
    assert splits == made["rankings"]["split"].value_counts().to_dict()


def test_one_group_alone(frames: dict[str, pd.DataFrame]) -> None:
    mine = of_group(frames, "coast")
    for table in ("rankings", "comparisons", "ratings", "thumbs", "beliefs"):
        assert len(mine[table]) == (frames[table]["group"] == "coast").sum() > 0
        assert set(mine[table]["group"]) == {"coast"}
    assert len(mine["prompts"]) == len(frames["prompts"])
    with pytest.raises(DataError, match="Groups: coast, inland, upland"):
        of_group(frames, "island")
    with pytest.raises(DataError, match=r"no row names a group\. Give the feedback a column `group`"):
        of_group({"comparisons": frames["comparisons"].assign(group="")}, "coast")


def test_who_is_revoked_is_not_asked(
    frames: dict[str, pd.DataFrame], samples: list[dict[str, Any]], tmp_path: Path
) -> None:
    copy_pipeline(tmp_path)
    everybody = [f"annotator-{number:02d}" for number in range(1, 21)]
    set_params(tmp_path / "params.yaml", [f"validate.revoked=[{', '.join(everybody[:-2])}, somebody]"])
    for name in ("samples", "clean"):
        (tmp_path / "data" / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(samples[:40]), tmp_path / "data/samples/samples.parquet")
    (tmp_path / "reports").mkdir()
    durable.write_json(tmp_path / "reports/screened.json", {})
    run_here(tmp_path, "label", label)
    judged = read_tables(tmp_path / "data/judgements")["rankings"]
    assert set(judged["annotator"]) == set(everybody[-2:])
    assert set(judged["criterion"]) == set(CRITERIA)
    set_params(tmp_path / "params.yaml", [f"validate.revoked=[{', '.join(everybody)}]"])
    with pytest.raises(DataError, match="names everybody who could be asked"):
        run_here(tmp_path, "label", label)
