"""The beliefs of the groups: distributions that differ, and that what people say follows."""

from collections import Counter
from functools import partial
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest

from rlhf.world import World
from rlhf.world.beliefs import belief_distribution, draw_belief, expressed_belief, opinion_topic
from rlhf.world.lexicon import BELIEFS, GROUPS, TOPICS


def test_every_distribution_sums_to_one_and_has_every_belief() -> None:
    for topic in TOPICS:
        for group in GROUPS:
            shares = belief_distribution(topic, group)
            assert tuple(shares) == BELIEFS
            assert sum(shares.values()) == pytest.approx(1.0)
            assert min(shares.values()) > 0.0


def test_groups_differ_on_every_topic() -> None:
    for topic in TOPICS:
        for one, other in combinations(GROUPS, 2):
            first, second = (np.array(list(belief_distribution(topic, group).values())) for group in (one, other))
            assert np.abs(first - second).sum() / 2 > 0.3  # total variation
    most_fond = {max(GROUPS, key=partial(share_of_the_fond, topic)) for topic in TOPICS}
    assert most_fond == set(GROUPS)


def share_of_the_fond(topic: str, group: str) -> float:
    return belief_distribution(topic, group)["very good"]


def test_members_hold_beliefs_at_the_rates_of_their_group() -> None:
    rng, draws = Random(0), 20_000
    held = Counter(draw_belief(rng, "city life", "coast") for _ in range(draws))
    for belief, share in belief_distribution("city life", "coast").items():
        assert abs(held[belief] / draws - share) <= 3 * np.sqrt(share * (1 - share) / draws)


def test_what_demonstrators_say_follows_the_mean_of_the_groups(world: World) -> None:
    said = [d for _, d in world.demonstrations() if opinion_topic(d.prompt) and not d.flaws]
    found = Counter(expressed_belief(d.response) for d in said)
    expected = {
        belief: np.mean([belief_distribution(opinion_topic(d.prompt), g)[belief] for d in said for g in GROUPS])
        for belief in BELIEFS
    }
    assert set(found) <= set(BELIEFS)
    for belief, share in expected.items():
        assert abs(found[belief] / len(said) - share) <= 4 * np.sqrt(share * (1 - share) / len(said))


def test_a_belief_is_read_from_an_answer_and_a_topic_from_a_prompt() -> None:
    assert expressed_belief("I think city life is rather bad.") == "rather bad"
    assert expressed_belief("It is very good and very bad.") == ""
    assert expressed_belief("") == ""
    assert opinion_topic([{"role": "user", "content": "Is loud music good or bad for Arden?"}]) == "loud music"
    assert opinion_topic([{"role": "user", "content": "What is two plus three?"}]) == ""


def test_every_group_is_polled_on_every_opinion_and_votes_as_it_believes(
    world: World, tables: dict[str, list[dict[str, Any]]]
) -> None:
    asked = [row["prompt"] for table in ("demonstrations", "prompts") for row in tables[table]]
    opinions = [prompt for prompt in asked if opinion_topic(prompt)]
    polls = tables["beliefs"]
    assert [(row["prompt"], row["group"]) for row in polls] == [
        (prompt, group) for prompt in opinions for group in GROUPS
    ]
    assert {sum(row["votes"]) for row in polls} == {world.config.votes}
    coast = [row for row in polls if row["group"] == "coast" and opinion_topic(row["prompt"]) == "hard work"]
    people = world.config.votes * len(coast)
    for place, share in enumerate(belief_distribution("hard work", "coast").values()):
        found = sum(row["votes"][place] for row in coast) / people
        assert abs(found - share) <= 4 * np.sqrt(share * (1 - share) / people)
    assert [expressed_belief(f"I think {text}") for text in polls[0]["statements"]] == list(BELIEFS)
