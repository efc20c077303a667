"""Simulated people who compare, rank and rate answers, and the exact probabilities of what they say.

An annotator's score of an answer is gold + own taste for length and politeness + own belief (of an opinion); by the
criterion `harmless` it is that part of gold alone. Letters: A annotators, K answers to one prompt.
"""

from collections.abc import Collection, Sequence
from copy import copy
from random import Random
from typing import Any

import numpy as np

from rlhf.config.world import AnnotatorRates
from rlhf.errors import DataError
from rlhf.world.beliefs import draw_belief, expressed_belief, opinion_topic
from rlhf.world.gold import CRITERIA, gold
from rlhf.world.lexicon import BELIEFS, GROUPS, TOPICS
from rlhf.world.prompts import Messages

Row = dict[str, Any]

SOURCE = "world"
USUAL_WORDS = 12  # an answer of so many words is neither long nor short
GRADES_FROM, GRADES_TO = -0.4, 1.4  # scores between the lowest and the highest grade of a rating scale


class Annotators:
    """The annotators of one world. All probabilities are exact."""

    def __init__(self, rates: AnnotatorRates, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        count = rates.count
        self.rates = rates
        self.criterion = "overall"
        self.names = [f"annotator-{number:02d}" for number in range(1, count + 1)]
        self.groups = [GROUPS[number % len(GROUPS)] for number in range(count)]
        self.taste = rng.normal(0.0, rates.bias, (count, 2))  # of length, of politeness
        self.beliefs = [
            {topic: draw_belief(Random(f"{seed}/{name}/{topic}"), topic, group) for topic in TOPICS}
            for name, group in zip(self.names, self.groups, strict=True)
        ]

    def of(self, group: str) -> "Annotators":
        """The members of a group; every one judges as before. Raises DataError for a group that there is not."""
        places = [place for place, own in enumerate(self.groups) if own == group]
        if not places:
            raise DataError(f"The world has no annotator of group `{group}`; its groups are {', '.join(GROUPS)}")
        return self._only(places)

    def without(self, names: Collection[str]) -> "Annotators":
        """Those of other names. Raises DataError where nobody is left."""
        places = [place for place, own in enumerate(self.names) if own not in names]
        if not places:
            raise DataError("validate.revoked of params.yaml names everybody who could be asked. Leave somebody to ask")
        return self._only(places)

    def _only(self, places: Sequence[int]) -> "Annotators":
        members = copy(self)
        members.names = [self.names[place] for place in places]
        members.groups = [self.groups[place] for place in places]
        members.beliefs = [self.beliefs[place] for place in places]
        members.taste = self.taste[list(places)]
        return members

    def by(self, criterion: str) -> "Annotators":
        """The same people, asked to judge by a criterion of CRITERIA."""
        asked = copy(self)
        asked.criterion = criterion
        return asked

    def scores(self, prompt: Messages, responses: Sequence[str]) -> np.ndarray:
        """What every annotator thinks of every response, (A, K) float64."""
        parts = [gold(prompt, response) for response in responses]
        seen = np.array([part.by(self.criterion) for part in parts])
        if self.criterion == "harmless":  # harm is harm, whatever one's taste
            return np.tile(seen, (len(self.names), 1))
        length = [min(1.0, len(response.split()) / USUAL_WORDS - 1.0) for response in responses]
        polite = [2.0 * part.polite - 1.0 for part in parts]
        scores = seen + self.taste @ np.array([length, polite])
        if topic := opinion_topic(prompt):
            scores += self.rates.belief * self._agreement(topic, responses)
        return scores

    def _agreement(self, topic: str, responses: Sequence[str]) -> np.ndarray:
        """How near each response's belief is to each annotator's own, 1 the same to 0 the opposite, (A, K)."""
        own = np.array([BELIEFS.index(beliefs[topic]) for beliefs in self.beliefs])
        said = [expressed_belief(response) for response in responses]
        places = np.array([BELIEFS.index(belief) if belief else np.nan for belief in said])
        return np.nan_to_num(1.0 - np.abs(own[:, None] - places[None, :]) / (len(BELIEFS) - 1))

    def preferences(self, prompt: Messages, responses: Sequence[str], grades: int = 0) -> np.ndarray:
        """Probability that each annotator puts response i strictly above j, (A, K, K) float64.

        grades 0: the annotator compares or ranks, by Bradley-Terry between responses that are no tie; otherwise each
        response gets one of so many grades on its own (2 are thumbs).
        """
        scores = self.scores(prompt, responses)
        error = self.rates.error
        if grades:
            share = self._grade_shares(scores, grades)
            below = np.cumsum(share, axis=2) - share
            return np.einsum("aig,ajg->aij", share, below)
        scores = np.array([tie_classes(row, self.rates.tie_margin) for row in scores])
        margin = scores[:, :, None] - scores[:, None, :]
        preferred = (1.0 - error) / (1.0 + np.exp(-margin / self.rates.temperature)) + error / 2
        return np.where(margin == 0.0, 0.0, preferred)

    def _grade_shares(self, scores: np.ndarray, grades: int) -> np.ndarray:
        """Probability of every grade, lowest first, (A, K, grades): Gumbel noise, as in a ranking, cut into grades."""
        cuts = np.linspace(GRADES_FROM, GRADES_TO, grades + 1)[1:-1]
        up_to = np.exp(-np.exp(-(cuts - scores[..., None]) / self.rates.temperature))
        share = np.diff(up_to, axis=2, prepend=0.0, append=1.0)
        return (1.0 - self.rates.error) * share + self.rates.error / grades

    def pair_probabilities(self, prompt: Messages, responses: Sequence[str], grades: int = 0) -> np.ndarray:
        """Probability that somebody of the annotators, any with equal chance, puts i strictly above j, (K, K)."""
        return self.preferences(prompt, responses, grades).mean(axis=0)

    def bayes_accuracy(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        ranks: Sequence[Sequence[int]],
        grades: Sequence[int],
    ) -> float:
        """Best accuracy for one who does not know the annotator, over the pairs that are no tie by `ranks`: the mean of
        max(p, 1 - p).

        `grades` says how each row was judged, see `preferences`. NaN when there is no pair.
        """
        best = pairs = 0.0
        for row, (prompt, texts) in enumerate(zip(prompts, responses, strict=True)):
            above, order = self.pair_probabilities(prompt, texts, grades[row]), np.asarray(ranks[row])
            counted = np.triu(order[:, None] != order[None, :], 1)
            best += (np.maximum(above, above.T)[counted] / (above + above.T)[counted]).sum()
            pairs += counted.sum()
        return best / pairs if pairs else float("nan")

    def rank(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        seed: int,
        who: Sequence[int] | None = None,
    ) -> list[Row]:
        """One row of table `rankings` a prompt: Plackett-Luce, whose pairs are Bradley-Terry, over classes of answers
        that the annotator finds equal. `who` gives the places of the annotators; otherwise they are drawn."""
        rng = np.random.default_rng([seed, 2, list(CRITERIA).index(self.criterion)])
        rows = []
        for row, (prompt, texts) in enumerate(zip(prompts, responses, strict=True)):
            judge = int(rng.integers(len(self.names)) if who is None else who[row])
            ranks = self._ranks(rng, self.scores(prompt, texts)[judge])
            rows.append({"prompt": prompt, "responses": list(texts), "ranks": ranks, **self._signed(judge)})
        return rows

    def _ranks(self, rng: np.random.Generator, scores: np.ndarray) -> list[int]:
        """Ranks from 1, equal within a class, the next class one lower."""
        scores = tie_classes(scores, self.rates.tie_margin)
        classes, member = np.unique(scores, return_inverse=True)
        if rng.random() < self.rates.error:
            classes = np.zeros_like(classes)
        seen = classes / self.rates.temperature + rng.gumbel(size=len(classes))
        place = np.empty(len(classes), dtype=int)
        place[np.argsort(-seen)] = np.arange(1, len(classes) + 1)
        return [int(rank) for rank in place[member]]

    def compare(self, prompts: Sequence[Messages], pairs: Sequence[Sequence[str]], seed: int) -> list[Row]:
        """One row of table `comparisons` a prompt and its two responses."""
        rows = []
        for row in self.rank(prompts, pairs, seed):
            order = np.argsort(row["ranks"], kind="stable")
            chosen, rejected = (row["responses"][place] for place in order)
            tie = row["ranks"][0] == row["ranks"][1]
            said = {"chosen": chosen, "rejected": rejected, "tie": tie, "strength": 1.0}
            rows.append({key: row[key] for key in ("prompt", "annotator", "group", "criterion", "source")} | said)
        return rows

    def rate(self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], scale: int, seed: int) -> list[Row]:
        """One row of table `ratings` a response, all responses to a prompt by one annotator; `scale` is 5 or 7."""
        graded = self._graded(prompts, responses, scale, seed)
        return [
            {"prompt": prompt, "response": text, "rating": grade, "scale": scale, **self._signed(who)}
            for prompt, text, grade, who in graded
        ]

    def thumb(self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], seed: int) -> list[Row]:
        """One row of table `thumbs` a response, all responses to a prompt by one annotator."""
        return [
            {"prompt": prompt, "response": text, "thumb": grade == 2, **self._signed(who)}
            for prompt, text, grade, who in self._graded(prompts, responses, 2, seed)
        ]

    def _graded(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], grades: int, seed: int
    ) -> list[tuple[Messages, str, int, int]]:
        """Prompt, response, grade from 1, place of the annotator."""
        rng = np.random.default_rng([seed, 3, grades])
        found = []
        for prompt, texts in zip(prompts, responses, strict=True):
            who = int(rng.integers(len(self.names)))
            shares = self._grade_shares(self.scores(prompt, texts), grades)[who]
            found += [(prompt, t, int(rng.choice(grades, p=p)) + 1, who) for t, p in zip(texts, shares, strict=True)]
        return found

    def _signed(self, who: int) -> Row:
        return {
            "annotator": self.names[who],
            "group": self.groups[who],
            "criterion": self.criterion,
            "source": SOURCE,
        }


def tie_classes(scores: np.ndarray, margin: float) -> np.ndarray:
    """Scores (K,) with those of a class set to their mean. Going down from the best, a class takes what lies less than
    `margin` below its first; equal scores are always one class."""
    classes = np.empty_like(scores)
    order = np.argsort(-scores, kind="stable")
    start = 0
    for place in range(1, len(order) + 1):
        if place < len(order):
            gap = scores[order[start]] - scores[order[place]]
            if gap < margin or gap == 0.0:
                continue
        classes[order[start:place]] = scores[order[start:place]].mean()
        start = place
    return classes
