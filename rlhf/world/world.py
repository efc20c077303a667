"""The small world: everything that can be collected in it, made from a configuration and a seed."""

from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from rlhf.config.world import WorldConfig
from rlhf.world.annotators import SOURCE, Annotators
from rlhf.world.beliefs import belief_distribution, opinion_topic, stated
from rlhf.world.demonstrator import Demonstration, demonstrate
from rlhf.world.lexicon import GROUPS
from rlhf.world.prompts import Messages, draw_form, draw_goal, draw_prompt, draw_use_case
from rlhf.world.texts import draw_text

Row = dict[str, Any]
TRIES = 8  # draws for a prompt that has not been asked yet
ANSWERS = (3, 4)  # ranked together, as collected before this run
GRADED = (2, 3)  # rated together


class World:
    """A world of simulated people. Equal configurations and seeds give equal rows; each table has draws of its own, so
    that the size of one does not move another."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    @cached_property
    def annotators(self) -> Annotators:
        """Those who judge."""
        return Annotators(self.config.annotators, self.seed)

    def tables(self) -> dict[str, list[Row]]:
        """Rows, without ids, of every table that has some: columns as in rlhf/data/tables.py."""
        tables = {
            "demonstrations": [
                {"prompt": said.prompt, "response": said.response, "use_case": use_case, "source": SOURCE}
                for use_case, said in self.demonstrations()
            ],
            "comparisons": self._comparisons(),
            "ratings": self._ratings(),
            "thumbs": self._thumbs(),
            "rankings": self._rankings(),
            "beliefs": self._beliefs(),
            "prompts": [
                {"prompt": prompt, "use_case": use_case, "kind": kind, "source": SOURCE}
                for prompt, use_case, kind in self._prompts("prompts", self.config.prompts)
            ],
            "texts": self._texts(),
        }
        return {name: rows for name, rows in tables.items() if rows}

    def demonstrations(self) -> list[tuple[str, Demonstration]]:
        """Every demonstration with its use case and its flaws."""
        rng = Random(f"{self.seed}/demonstrator")
        prompts = self._prompts("demonstrations", self.config.demonstrations)
        return [(use_case, demonstrate(rng, prompt, self.config.demonstrator)) for prompt, use_case, _ in prompts]

    def _prompts(self, name: str, count: int) -> list[tuple[Messages, str, str]]:
        """Prompts with use case and kind. One that has been asked before is drawn again, a few times."""
        rng = Random(f"{self.seed}/{name}/prompts")
        asked: set[str] = set()
        found = []
        for _ in range(count):
            use_case = draw_use_case(rng)
            goal, form = draw_goal(rng, use_case, self.config), draw_form(rng, self.config)
            for _ in range(TRIES):
                prompt, kind = draw_prompt(rng, use_case, goal, form)
                if str(prompt) not in asked:
                    break
            asked.add(str(prompt))
            found.append((prompt, use_case, kind))
        return found

    def _answered(self, name: str, sizes: list[int]) -> tuple[list[Messages], list[list[str]]]:
        """As many prompts as sizes, each with so many answers by demonstrators."""
        rng = Random(f"{self.seed}/{name}/answers")
        prompts = [prompt for prompt, _, _ in self._prompts(name, len(sizes))]
        return prompts, [self._answers(rng, prompt, size) for prompt, size in zip(prompts, sizes, strict=True)]

    def _answers(self, rng: Random, prompt: Messages, count: int) -> list[str]:
        """Different answers to one prompt."""
        answers: dict[str, None] = {}
        while len(answers) < count:
            answers[demonstrate(rng, prompt, self.config.demonstrator).response] = None
        return list(answers)

    def _comparisons(self) -> list[Row]:
        return self.annotators.compare(*self._answered("comparisons", [2] * self.config.comparisons), self.seed)

    def _rankings(self) -> list[Row]:
        rng = Random(f"{self.seed}/rankings/sizes")
        sizes = [rng.randint(*ANSWERS) for _ in range(self.config.rankings)]
        return self.annotators.rank(*self._answered("rankings", sizes), self.seed)

    def _ratings(self) -> list[Row]:
        five = self.config.ratings // 2
        return [
            row
            for scale, rows in ((5, five), (7, self.config.ratings - five))
            for row in self.annotators.rate(*self._answered(f"ratings/{scale}", _sizes(rows)), scale, self.seed)
        ]

    def _thumbs(self) -> list[Row]:
        return self.annotators.thumb(*self._answered("thumbs", _sizes(self.config.thumbs)), self.seed)

    def _beliefs(self) -> list[Row]:
        """What some people of each group say to every opinion that a prompt asks for, demonstrated or not."""
        if not self.config.votes:
            return []
        rng = np.random.default_rng([self.seed, 5])
        prompts = self._prompts("demonstrations", self.config.demonstrations) + self._prompts(
            "prompts", self.config.prompts
        )
        asked = [prompt for prompt, _, _ in prompts if opinion_topic(prompt)]
        return [self._poll(rng, prompt, group) for prompt in asked for group in GROUPS]

    def _poll(self, rng: np.random.Generator, prompt: Messages, group: str) -> Row:
        topic = opinion_topic(prompt)
        shares = belief_distribution(topic, group)
        votes = rng.multinomial(self.config.votes, list(shares.values())).tolist()
        statements = [stated(topic, belief) for belief in shares]
        return {"prompt": prompt, "statements": statements, "votes": votes, "group": group, "source": SOURCE}

    def _texts(self) -> list[Row]:
        rng = Random(f"{self.seed}/texts")
        return [{"text": draw_text(rng), "source": SOURCE} for _ in range(self.config.texts)]


def _sizes(rows: int) -> list[int]:
    """How many answers each prompt gets, so that there are `rows` answers in all: the sizes of GRADED by turns."""
    sizes: list[int] = []
    while rows:
        sizes.append(min(rows, GRADED[len(sizes) % len(GRADED)]))
        rows -= sizes[-1]
    return sizes
