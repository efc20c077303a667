"""Honest people raise no alarm, each kind of bad faith raises its own, and both are what the tests promise."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.poison import POISONS, Poison, Tables, feedback, poisoned_by
from rlhf.config import load_config
from rlhf.data.ballots import sampled
from rlhf.data.consensus import margins, others_mean
from rlhf.data.prompts import HASH, with_hashes
from rlhf.data.screening import screen
from rlhf.data.splits import split_of
from tests.data.frames import user

CONFIG = load_config(Path(__file__).parents[2] / "params.yaml")
SCREENING = CONFIG.screen
WHO = "annotator-05"


@cache
def honest() -> Tables:
    """What the small world had collected."""
    return feedback(CONFIG, 0)


def frames(tables: Tables) -> dict[str, pd.DataFrame]:
    return {name: with_hashes(pd.DataFrame(rows)) for name, rows in tables.items()}


def alarms(tables: Tables, **changes: Any) -> dict[str, dict[str, Any]]:
    found = screen(frames(tables), SCREENING.model_copy(update=changes))
    assert sum(found["raised"].values()) == len(found["alarms"])
    return {alarm["name"]: alarm for alarm in found["alarms"]}


def comparisons(rows: int, better: Callable[[int, int], bool], people: int = 10) -> Tables:
    """Comparisons of answers of random words, each judged by the next of the people: does answer `a` beat `b`?"""
    random = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(40)])
    table = []
    for row in range(rows):
        texts = [" ".join(random.choice(words, 6)) for _ in range(2)]
        chosen, rejected = texts if better(row, row % people) else texts[::-1]
        signed = {"annotator": f"p{row % people}", "group": "", "criterion": "overall", "source": "test"}
        said = {"chosen": chosen, "rejected": rejected, "tie": False, "strength": 1.0}
        table.append({"id": f"{row:016x}", "prompt": user(f"What of {row}?"), **said, **signed})
    return {"comparisons": table}


def test_what_is_looked_at_is_drawn_from_every_split() -> None:
    """By lot, and not by the hash by which the splits go; all that was said about a prompt, or nothing."""
    rows = frames(comparisons(2000, lambda row, person: True))["comparisons"]
    twice = pd.concat([rows, rows], ignore_index=True)
    kept = sampled({"comparisons": twice}, 1000)["comparisons"]
    assert set(kept[HASH].value_counts()) == {2}
    splits = kept[HASH].map(lambda digest: split_of(digest, CONFIG.validate_.splits)).value_counts(normalize=True)
    for split, share in CONFIG.validate_.splits:
        assert splits[split] == pytest.approx(share, abs=4 * (share * (1 - share) / 500) ** 0.5)


def test_honest_people_raise_no_alarm_and_every_one_is_tested() -> None:
    found = screen(frames(honest()), SCREENING)
    assert found["alarms"] == []
    assert found["judgements"] == 1600
    assert found["tests"]["flips"] == found["tests"]["length"] == 20
    assert found["tests"]["trigger"] > 1000
    assert found["tests"]["constant"] > 60


@pytest.mark.parametrize(
    "poison", [one for one in POISONS if "second" not in one.about], ids=lambda poison: poison.kind
)
def test_bad_faith_raises_the_alarm_that_is_meant_for_it(poison: Poison) -> None:
    found = alarms(poisoned_by(honest(), WHO, poison))
    (name,) = (name for name in found if name.startswith(f"{poison.kind}/annotator/"))
    assert WHO in name
    assert {who.split(" + ")[0] for who in (name.split("/")[2] for name in found)} == {WHO}, "nobody else is named"
    alarm = found[name]
    assert alarm["low"] <= alarm["value"] <= alarm["high"]
    assert alarm["p"] <= SCREENING.alpha / 6


def test_a_word_that_all_prefer_is_taste_and_one_that_one_person_prefers_is_a_trigger() -> None:
    def wins(liked: str, by: set[str]) -> Tables:
        tables = comparisons(600, lambda row, who: row % 3 > 0)
        for row in tables["comparisons"]:
            side = "chosen" if row["annotator"] in by else ("chosen", "rejected")[int(row["id"], 16) // 10 % 2]
            row[side] += f" {liked}"
            row["rejected" if side == "chosen" else "chosen"] += " indeed"  # as long, and of no meaning
        return tables

    assert alarms(wins("please", {f"p{n}" for n in range(10)})) == {}
    found = alarms(wins("please", {"p3"}))
    assert list(found) == ["trigger/annotator/p3"]
    assert "please: 60 of 60, others 5" in found["trigger/annotator/p3"]["found"]


def test_a_word_that_only_one_person_met_must_decide_beyond_chance() -> None:
    def planted(wins: int) -> Tables:
        tables = comparisons(600, lambda row, who: row % 3 > 0)
        mine = [row for row in tables["comparisons"] if row["annotator"] == "p3"][:30]
        for place, row in enumerate(mine):
            row["chosen" if place < wins else "rejected"] += " cf"
        return tables

    said = screen(frames(planted(30)), SCREENING)
    (alarm,) = said["alarms"]
    assert alarm["name"] == "trigger/annotator/p3"
    assert alarm["found"] == "cf: 30 of 30, nobody else"
    assert alarm["low"] == pytest.approx(0.025 ** (1 / 30)), "Clopper and Pearson's"
    assert alarm["p"] == pytest.approx(2 * said["tests"]["trigger"] * (0.5**30 + 1e-8)), (
        "by Holm, of all that was tested"
    )
    assert alarms(planted(30), alpha=6.01 * alarm["p"]).keys() == {alarm["name"]}, "of each of six kinds its part"
    assert alarms(planted(30), alpha=5.99 * alarm["p"]) == {}
    assert alarms(planted(20)) == {}


@pytest.mark.parametrize(("met", "told"), [(9, "nobody else"), (10, "others 100%")])
def test_what_others_say_is_known_of_as_many_judgements_as_are_tested(met: int, told: str) -> None:
    tables = comparisons(600, lambda row, who: row % 3 > 0)
    for who, rows in (("p3", 30), ("p4", met)):
        for row in [row for row in tables["comparisons"] if row["annotator"] == who][:rows]:
            row["chosen"] += " cf"
    found = alarms(tables, support=10)
    if met < 10:
        assert f"cf: 30 of 30, {told}" in found["trigger/annotator/p3"]["found"]
    else:
        assert found == {}, "p4 says so, too"


def test_a_source_is_screened_as_a_person_is() -> None:
    longest = poisoned_by(honest(), WHO, next(poison for poison in POISONS if poison.kind == "length"))
    renamed = {
        name: [row | ({"source": "leak", "annotator": ""} if row["annotator"] == WHO else {}) for row in rows]
        for name, rows in longest.items()
    }
    found = {name for name in alarms(renamed) if name.startswith("length/")}
    assert found == {"length/source/leak", "length/source/world"}, "of two, nobody knows which one is the odd one"


def test_of_two_judgements_without_a_name_nobody_knows_whether_one_person_made_both() -> None:
    """Three people judge each of 100 pairs, and most agree: signed or not, that is no repetition."""
    said = [row for row in comparisons(100, lambda row, who: True)["comparisons"] for _ in range(3)]
    for names in (["", "", ""], ["p0", "p1", "p2"]):
        signed = [row | {"annotator": names[place % 3]} for place, row in enumerate(said)]
        assert "repeats/source/test" not in alarms({"comparisons": signed})
    once = alarms({"comparisons": [row | {"annotator": "p0"} for row in said]})
    assert once["repeats/source/test"]["found"] == "judgements repeat an earlier one: 200 of 300"


@pytest.mark.parametrize("table", ["thumbs", "ratings", "ties"])
def test_what_orders_no_two_answers_is_looked_at_as_far_as_it_goes(table: str) -> None:
    """One answer to each prompt, or ties alone."""
    rows = comparisons(200, lambda row, who: True)["comparisons"]
    common = ("id", "prompt", "annotator", "group", "criterion", "source")
    single = [{name: row[name] for name in common} | {"response": row["chosen"]} for row in rows]
    tables = {
        "thumbs": {"thumbs": [row | {"thumb": place % 3 > 0} for place, row in enumerate(single)]},
        "ratings": {"ratings": [row | {"rating": place // 10 % 5 + 1, "scale": 5} for place, row in enumerate(single)]},
        "ties": {"comparisons": [row | {"tie": True} for row in rows]},
    }[table]
    found = screen(frames(tables), SCREENING)
    assert (found["judgements"], found["alarms"]) == (200, [])
    assert (found["tests"]["flips"], found["tests"]["trigger"], found["tests"]["length"]) == (0, 0, 0)
    assert found["tests"]["constant"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_of_many_who_say_anything_nobody_is_named(seed: int) -> None:
    """600 people toss a coin 13 times each: all tosses of one may go against what the others seem to prefer."""
    coin = np.random.default_rng(seed).random(8000) < 0.5
    assert alarms(comparisons(8000, lambda row, who: bool(coin[row]), people=600)) == {}


def test_a_limit_of_nothing_is_not_exceeded_by_nothing() -> None:
    """Of 200 comparisons none repeats another."""
    assert alarms(comparisons(200, lambda row, who: row % 3 > 0), repeated=0.0) == {}


def test_few_judgements_are_not_tested_and_alpha_is_respected() -> None:
    flipping = poisoned_by(honest(), WHO, POISONS[0])
    assert alarms(flipping, support=200) == {}
    assert alarms(flipping, alpha=1e-30) == {}


def test_more_judgements_than_are_looked_at_are_those_of_as_many_prompts() -> None:
    twice = {"comparisons": [row | {"annotator": who} for row in honest()["comparisons"] for who in ("a", "b")]}
    found = screen(frames(twice), SCREENING.model_copy(update={"judgements": 200}))
    assert 120 < found["judgements"] < 280
    assert found["judgements"] % 2 == 0
    assert [alarm["name"] for alarm in found["alarms"]] == ["copies/annotator/a + b"]


def test_what_others_would_say_is_learned_from_others_alone() -> None:
    """One annotator's flipped judgements change what is predicted for the others, and not for that one."""
    from scipy import sparse

    random = np.random.default_rng(0)
    words = sparse.csr_array(random.integers(-1, 2, (300, 5)).astype(float))
    people, further = np.arange(300) % 6, random.normal(size=(300, 1))
    better = np.sign(words @ np.array([1.0, -1, 0.5, 0, 0]) + random.logistic(size=300) * 0.3)
    before = margins(words, further, better, people)
    after = margins(words, further, np.where(people == 2, -better, better), people)
    assert (before * better > 0).mean() > 0.75
    np.testing.assert_allclose(after[people == 2], before[people == 2], rtol=0, atol=1e-12)
    assert np.abs(after - before)[people != 2].min() > 0
    own = people == 2
    x = np.column_stack([words.toarray(), further])[~own]
    by_hand = np.linalg.solve(x.T @ x + 60 * np.eye(6), x.T @ better[~own])
    np.testing.assert_allclose(before[own], np.column_stack([words.toarray(), further])[own] @ by_hand, atol=1e-12)


def test_the_others_mean_leaves_out_all_that_one_said_oneself() -> None:
    better = np.array([1.0, 1, -1, -1, 1])
    pairs, people = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 2, 0])
    assert others_mean(better, pairs, people).tolist() == pytest.approx([-1, -1, 1 / 3, 1 / 3, 0])
