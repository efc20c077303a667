"""What can be collected: the same for the same seed, in the mix and with the flaws that the lectures name."""

from collections import Counter
from math import sqrt
from typing import Any

import numpy as np
import pytest

from rlhf.config.world import WorldConfig
from rlhf.data.tables import COLUMNS
from rlhf.world import World
from rlhf.world.beliefs import opinion_topic
from rlhf.world.gold import gold, is_borderline, is_harmful_request
from rlhf.world.lexicon import GROUPS
from rlhf.world.prompts import USE_CASES
from rlhf.world.requests import understand

Tables = dict[str, list[dict[str, Any]]]


def near(found: float, share: float, count: int) -> bool:
    """Within 4 standard errors of a share."""
    return abs(found - share) <= 4 * sqrt(share * (1 - share) / count)


def test_equal_seeds_give_equal_rows_and_other_seeds_others(config: WorldConfig, tables: Tables) -> None:
    assert World(config, seed=0).tables() == tables
    other = World(config, seed=1).tables()
    assert all(other[name] != rows for name, rows in tables.items())


def test_the_size_of_one_table_does_not_move_another(config: WorldConfig, tables: Tables) -> None:
    smaller = World(config.model_copy(update={"prompts": 50, "ratings": 0}), seed=0).tables()
    assert smaller["prompts"] == tables["prompts"][:50]
    assert "ratings" not in smaller
    for name in ("demonstrations", "comparisons", "rankings", "thumbs", "texts"):
        assert smaller[name] == tables[name]


def test_the_tables_have_their_columns_and_sizes(config: WorldConfig, tables: Tables) -> None:
    assert set(tables) == set(COLUMNS)
    asked = [row["prompt"] for table in ("demonstrations", "prompts") for row in tables[table]]
    opinions = sum(bool(opinion_topic(prompt)) for prompt in asked)
    for name, rows in tables.items():
        assert len(rows) == (opinions * len(GROUPS) if name == "beliefs" else getattr(config, name))
        assert all(row.keys() == COLUMNS[name].keys() - {"id"} for row in rows)


def test_the_mix_is_that_of_the_lectures(config: WorldConfig, world: World) -> None:
    drawn = world._prompts("mix", 20_000)
    counts = Counter(use_case for _, use_case, _ in drawn)
    for use_case, share in USE_CASES.items():
        assert near(counts[use_case] / len(drawn), share / sum(USE_CASES.values()), len(drawn)), use_case
    shares = {
        "harmful": sum(is_harmful_request(prompt) for prompt, _, _ in drawn) / len(drawn),
        "borderline": sum(is_borderline(prompt) for prompt, _, _ in drawn) / len(drawn),
    }
    for name, share in shares.items():
        assert near(share, getattr(config, name), len(drawn)), name


def test_prompts_are_of_every_kind_and_some_have_several_turns(config: WorldConfig, tables: Tables) -> None:
    rows = tables["prompts"]
    several = [row for row in rows if len(row["prompt"]) > 1]
    assert near(len(several) / len(rows), config.multi_turn, len(rows))
    kinds = Counter(row["kind"] for row in rows if len(row["prompt"]) == 1)
    assert set(kinds) == {"plain", "few_shot", "user"}
    assert near(kinds["user"] / kinds.total(), config.user, kinds.total())


def test_prompts_are_distinct_and_understood(tables: Tables) -> None:
    rows = tables["prompts"]
    assert len({str(row["prompt"]) for row in rows}) >= 4300
    assert all(understand(row["prompt"]).goal != "unknown" for row in rows)
    for row in rows:
        roles = [message["role"] for message in row["prompt"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_prompts_and_answers_are_short(tables: Tables) -> None:
    prompts = [sum(len(message["content"].split()) for message in row["prompt"]) for row in tables["prompts"]]
    answers = [len(row["response"].split()) for row in tables["demonstrations"]]
    assert max(prompts) <= 60
    assert np.percentile(answers, 95) <= 30
    assert min(answers) >= 1


def test_flaws_come_at_their_rates_and_independently(config: WorldConfig, world: World) -> None:
    said = [demonstration for _, demonstration in world.demonstrations()]
    harmful = [d for d in said if is_harmful_request(d.prompt)]
    harmless = [d for d in said if not is_harmful_request(d.prompt)]
    rates = config.demonstrator
    for flaw, among in (("wrong", harmless), ("off_topic", said), ("verbose", said), ("rude", said)):
        found = np.mean([getattr(d.flaws, flaw) for d in among])
        assert near(float(found), getattr(rates, flaw), len(among)), flaw
    on_topic = [d for d in harmful if not d.flaws.off_topic]
    complied = float(np.mean([d.flaws.complies_with_harm for d in on_topic]))
    assert near(complied, rates.complies_with_harm, len(on_topic))
    both = float(np.mean([d.flaws.verbose and d.flaws.rude for d in said]))
    assert near(both, rates.verbose * rates.rude, len(said))
    assert float(np.mean([not d.flaws for d in said])) == pytest.approx(1 / 3, abs=0.04)


def test_demonstrations_without_flaws_are_worth_more(world: World) -> None:
    said = [(bool(d.flaws), gold(d.prompt, d.response).total) for _, d in world.demonstrations()]
    flawed, flawless = (np.mean([total for has, total in said if has == wanted]) for wanted in (True, False))
    assert flawless > 1.2
    assert flawed < 0.7


def test_answers_that_are_judged_together_differ(tables: Tables) -> None:
    assert all(len(set(row["responses"])) == len(row["responses"]) for row in tables["rankings"])
    assert all(row["chosen"] != row["rejected"] for row in tables["comparisons"])
