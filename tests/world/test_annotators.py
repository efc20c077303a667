"""What the simulated people say has the probabilities that the world computes."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rlhf.config.world import AnnotatorRates
from rlhf.errors import DataError
from rlhf.world import World
from rlhf.world.annotators import Annotators, tie_classes
from rlhf.world.facts import FACTS
from rlhf.world.gold import gold
from rlhf.world.lexicon import GROUPS

DRAWS = 6_000
JOB, HOME = FACTS["Anna"]["job"], FACTS["Anna"]["home"]
PROMPT = [{"role": "user", "content": "What is the job of Anna?"}]
ANSWERS = [f"Gladly. Anna is a {JOB}.", f"Anna is a {JOB}.", f"Anna is a {JOB}. You are a fool.", "You are a fool."]
OPINION = [{"role": "user", "content": "What do you think of city life?"}]
OPINIONS = ["I think city life is very good.", "I think city life is very bad."]


@pytest.fixture(scope="module")
def rates(world: World) -> AnnotatorRates:
    return world.config.annotators


def within(found: float, expected: float, draws: float) -> bool:
    """Within 3 standard errors of a share."""
    return abs(found - expected) <= 3 * np.sqrt(expected * (1 - expected) / draws) + 1e-12


def people(rates: AnnotatorRates, **changed: float) -> Annotators:
    return Annotators(rates.model_copy(update=changed), seed=0)


def wins(annotators: Annotators, prompt: list[dict[str, str]], answers: list[str], **who: list[int]) -> np.ndarray:
    """Share of many rankings in which answer i stands strictly above j, (K, K)."""
    rows = annotators.rank([prompt] * DRAWS, [answers] * DRAWS, seed=5, **who)
    ranks = np.array([row["ranks"] for row in rows])
    return (ranks[:, :, None] < ranks[:, None, :]).mean(axis=0)


def test_a_preference_is_the_sigmoid_of_the_gold_difference(rates: AnnotatorRates) -> None:
    plain = people(rates, bias=0.0, belief=0.0, error=0.0)
    found = wins(plain, PROMPT, ANSWERS)
    totals = [gold(PROMPT, answer).total for answer in ANSWERS]
    for i, j in combinations(range(len(ANSWERS)), 2):
        assert within(found[i, j], 1 / (1 + np.exp(-(totals[i] - totals[j]) / rates.temperature)), DRAWS), (i, j)


def test_an_annotator_with_a_taste_of_his_own_ranks_at_the_computed_probabilities(rates: AnnotatorRates) -> None:
    annotators = people(rates, bias=0.4, error=0.1)
    for who in (0, 7):
        found = wins(annotators, PROMPT, ANSWERS, who=[who] * DRAWS)
        expected = annotators.preferences(PROMPT, ANSWERS)[who]
        for i, j in combinations(range(len(ANSWERS)), 2):
            assert within(found[i, j], expected[i, j], DRAWS), (who, i, j)


def test_the_mixture_of_the_annotators_is_what_their_rows_show(rates: AnnotatorRates) -> None:
    annotators = people(rates, bias=0.3)
    found = wins(annotators, OPINION, OPINIONS)
    expected = annotators.pair_probabilities(OPINION, OPINIONS)
    assert within(found[0, 1], expected[0, 1], DRAWS)
    assert within(found[1, 0], expected[1, 0], DRAWS)


@pytest.mark.parametrize("grades", [2, 5, 7])
def test_grades_have_the_computed_probabilities(rates: AnnotatorRates, grades: int) -> None:
    annotators = people(rates, error=0.1)
    several = [PROMPT] * (DRAWS // 4), [ANSWERS] * (DRAWS // 4)
    rows = annotators.thumb(*several, seed=5) if grades == 2 else annotators.rate(*several, grades, seed=5)
    said = np.array([row["thumb"] if grades == 2 else row["rating"] for row in rows]).reshape(-1, len(ANSWERS))
    expected = annotators.pair_probabilities(PROMPT, ANSWERS, grades)
    for i, j in combinations(range(len(ANSWERS)), 2):
        assert within((said[:, i] > said[:, j]).mean(), expected[i, j], len(said)), (i, j)
    assert grades == 2 or (said.min(), said.max()) == (1, grades)


def test_errors_are_fair_coins(rates: AnnotatorRates) -> None:
    random = people(rates, error=1.0, bias=0.0)
    found = wins(random, PROMPT, ANSWERS)
    assert all(within(found[i, j], 0.5, DRAWS) for i, j in combinations(range(len(ANSWERS)), 2))
    assert np.allclose(random.preferences(PROMPT, ANSWERS)[:, 0, 3], 0.5)


def test_scores_within_the_margin_are_ties_and_equal_ones_always(rates: AnnotatorRates) -> None:
    scores = np.array([1.0, 0.97, 0.94, 0.5, 0.5])
    assert tie_classes(scores, 0.05) == pytest.approx([0.985, 0.985, 0.94, 0.5, 0.5])
    assert tie_classes(scores, 0.0) == pytest.approx(scores)
    answers = [ANSWERS[0], ANSWERS[3], ANSWERS[0]]
    for row in people(rates).rank([PROMPT] * 200, [answers] * 200, seed=0):
        assert row["ranks"][0] == row["ranks"][2] != row["ranks"][1]
    (row,) = people(rates).compare([PROMPT], [[ANSWERS[0]] * 2], seed=0)
    assert row["tie"]


def test_the_bayes_accuracy_is_what_the_best_guess_reaches_in_a_long_simulation(world: World) -> None:
    prompts, answers = world._answered("bayes", [4] * 200)
    annotators = world.annotators
    above = [annotators.pair_probabilities(*row) for row in zip(prompts, answers, strict=True)]
    right = strict = 0
    observed = []
    for seed in range(20):
        rows = annotators.rank(prompts, answers, seed)
        observed.append(annotators.bayes_accuracy(prompts, answers, [row["ranks"] for row in rows], [0] * len(rows)))
        for row, chance in zip(rows, above, strict=True):
            ranks = row["ranks"]
            for i, j in combinations(range(4), 2):
                if ranks[i] != ranks[j]:
                    strict += 1
                    right += (ranks[i] < ranks[j]) == (chance[i, j] >= chance[j, i])
    expected = np.mean(observed)
    assert right / strict == pytest.approx(
        expected, abs=0.009
    )  # 3 standard errors, as if a ranking were one draw and not six
    assert 0.75 < expected < 0.95


def test_the_bayes_accuracy_by_hand(rates: AnnotatorRates) -> None:
    one = people(rates, count=1, bias=0.0, error=0.1, temperature=0.4)
    difference = gold(PROMPT, ANSWERS[0]).total - gold(PROMPT, ANSWERS[1]).total
    assert difference == pytest.approx(0.45)
    expected = 0.9 / (1 + np.exp(-0.45 / 0.4)) + 0.05
    for ranks in ([1, 2], [2, 1]):
        assert one.bayes_accuracy([PROMPT], [ANSWERS[:2]], [ranks], [0]) == pytest.approx(expected)
    assert np.isnan(one.bayes_accuracy([PROMPT], [ANSWERS[:2]], [[1, 1]], [0]))


def test_annotators_prefer_their_own_belief(rates: AnnotatorRates) -> None:
    annotators = people(rates, bias=0.0, belief=2.0)
    scores = annotators.scores(OPINION, OPINIONS)
    for own, (good, bad) in zip(annotators.beliefs, scores, strict=True):
        assert (good > bad) == (own["city life"] in ("very good", "good", "rather good"))
    indifferent = people(rates, bias=0.0, belief=0.0).scores(OPINION, OPINIONS)
    assert np.ptp(indifferent) == pytest.approx(0.0)


def test_people_are_of_every_group_and_sign_what_they_say(
    world: World, tables: dict[str, list[dict[str, Any]]]
) -> None:
    annotators = world.annotators
    assert set(annotators.groups) == set(GROUPS)
    for table in ("comparisons", "ratings", "thumbs", "rankings"):
        for row in tables[table]:
            assert annotators.groups[annotators.names.index(row["annotator"])] == row["group"]


def test_members_of_a_group_judge_as_they_did_among_all(rates: AnnotatorRates) -> None:
    everybody = people(rates)
    members = everybody.of("inland")
    mine = [place for place, group in enumerate(everybody.groups) if group == "inland"]
    assert members.names == [everybody.names[place] for place in mine]
    np.testing.assert_array_equal(members.scores(OPINION, OPINIONS), everybody.scores(OPINION, OPINIONS)[mine])
    with pytest.raises(DataError, match="coast, inland, upland"):
        everybody.of("island")
