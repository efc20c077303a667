"""What is measured: stages, models, lengths, and the token ids that both sides are given.

Answers and prompts are random ids whose lengths are log-normal, as people's are. Every draw is a function of the job,
so that each process makes the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from rlhf.batching.batches import RankedTurns
from rlhf.batching.encoding import Turn
from rlhf.batching.order import rows_of_step

END = 1  # the end-of-turn token; 0 pads, every other id is a word
STAGES = ("sft", "reward", "dpo", "grpo", "rloo", "ppo", "decode")
UNITS = {"sft": "rows", "reward": "pairs", "dpo": "pairs", "decode": "tokens"}  # what the rate counts; else completions
ONLINE = ("grpo", "rloo", "ppo")
MICRO = 4  # on a CPU: the fastest of 2, 4, 8 and 16 for TRL
SPREAD = 0.6  # standard deviation of the logarithm of a length


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt or an answer."""

    shortest: int
    median: int
    longest: int


@dataclass(frozen=True, slots=True)
class Job:
    """One stage on one model: `steps` optimizer steps, or batches to decode, of `batch` rows, pairs or answers."""

    stage: str
    model: str
    vocabulary: int
    prompt: Lengths
    answer: Lengths
    batch: int
    steps: int
    warmup: int  # steps before the clock starts
    micro: int = (
        0  # rows that go through the model at once, of TRL tuned; 0: all of a step, as ours and TRL shipped have it
    )
    answers: int = 1  # G, to each prompt
    ranked: int = 2  # K, answers of a ranking
    recorded: bool = False  # learn from given answers in place of sampling them
    learning_rate: float = 1e-5
    seed: int = 0

    @property
    def title(self) -> str:
        """As a table names it."""
        if self.stage == "decode":
            return f"decode, G = {self.answers}"
        if self.stage in ONLINE:
            return f"{self.stage}, {'given answers' if self.recorded else 'sampled answers'}"
        return self.stage

    @property
    def epochs(self) -> int:
        """Passes over the answers of an iteration: those of TRL's PPO, where no schedule has to be equal; else one."""
        return 4 if self.stage == "ppo" and not self.recorded else 1

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return self.answer.median if self.stage == "ppo" and self.recorded else self.answer.longest

    @property
    def passes(self) -> int:
        """Forward passes over every token that the work takes; a backward pass counts as two."""
        if self.stage == "decode":
            return 1
        models = 2 if self.stage == "ppo" else 1  # the critic learns as the policy does, and values come before
        before = (self.stage in ("dpo", *ONLINE)) + (self.stage in ONLINE and not self.recorded)
        return 3 * models * self.epochs + before + 2 * (self.stage == "ppo")

    @property
    def unit(self) -> str:
        """What the rate counts."""
        return UNITS.get(self.stage, "completions")

    @property
    def rows(self) -> int:
        """Rows, pairs or prompts in all."""
        return self.batch * self.steps // self.answers


def jobs(stages: list[str], models: list[str], vocabularies: dict[str, int], *, gpu: bool) -> Iterator[Job]:
    """Every job of some stages and models, as large as the machine allows in minutes."""
    prompt, answer = (Lengths(20, 60, 200), Lengths(10, 50, 120)) if gpu else (Lengths(8, 24, 64), Lengths(4, 20, 48))
    for model, stage in product(models, stages):
        some = Job(
            stage, model, vocabularies[model], prompt, answer, batch=16, steps=20, warmup=6, micro=0 if gpu else MICRO
        )
        if model == "medium" and not gpu:
            some = replace(some, batch=8, steps=6, warmup=2)
        if stage == "decode":
            yield from (replace(some, batch=32, steps=4, answers=answers, warmup=0) for answers in (1, 4))
        elif stage in ONLINE:
            some = replace(some, answers=1 if stage == "ppo" else 4)
            yield replace(some, recorded=True)
            yield replace(some, learning_rate=1e-6)  # so low that answers keep their lengths
        else:
            yield some


def turns(job: Job) -> list[Turn]:
    """Prompts with one answer."""
    random = np.random.default_rng(job.seed)
    return [Turn(_ids(job, job.prompt, random), _answer(job, random)) for _ in range(job.rows)]


def rankings(job: Job) -> list[RankedTurns]:
    """Prompts with K answers each, from the best to the worst."""
    random, ranks = np.random.default_rng(job.seed + 1), tuple(range(1, job.ranked + 1))
    return [
        RankedTurns((turn, *(Turn(turn.prompt, _answer(job, random)) for _ in ranks[1:])), ranks)
        for turn in turns(job)  # of the same prompts as SFT
    ]


def recorded_answers(job: Job) -> dict[tuple[int, ...], list[list[int]]]:
    """Answers to each prompt, G of them, as if a policy had sampled them; for PPO all of them are of one length."""
    random = np.random.default_rng(job.seed + 1)
    equal = Lengths(job.longest, job.longest, job.longest)
    one = partial(_ids, job, equal, random) if job.stage == "ppo" else partial(_answer, job, random)
    return {tuple(turn.prompt): [one() for _ in range(job.answers)] for turn in turns(job)}


def order(job: Job) -> list[int]:
    """Rows in the order in which the steps take them: the order in which the peer is given them."""
    size = job.batch // job.answers
    return [int(row) for step in range(job.steps) for row in rows_of_step(step, job.rows, size, job.seed)]


def _answer(job: Job, random: np.random.Generator) -> list[int]:
    return [*_ids(job, job.answer, random)[:-1], END]


def _ids(job: Job, lengths: Lengths, random: np.random.Generator) -> list[int]:
    length = int(np.clip(random.lognormal(np.log(lengths.median), SPREAD), lengths.shortest, lengths.longest))
    return [int(i) for i in random.integers(END + 1, job.vocabulary, length)]
