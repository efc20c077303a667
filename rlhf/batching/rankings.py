"""Rows of the table `rankings` as token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlhf.batching.batches import RankedTurns
from rlhf.batching.encoding import Turn, encode_ended, encode_prompts
from rlhf.batching.ragged import Ragged, Rows
from rlhf.config.training import TokensConfig


@dataclass(frozen=True, slots=True, eq=False)
class Rankings(Rows[RankedTurns]):
    """N prompts with ranked answers, S in all: those to the first prompt, then those to the next, ..."""

    prompts: Ragged  # N rows of ids
    answers: Ragged  # S rows of ids
    ranks: Ragged  # N rows of the ranks of a prompt's answers
    given: NDArray[np.int32]  # (S, 2), `given` of each answer's turn

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> Self:
        """From what `arrays` gave."""
        prompts, answers, ranks = (Ragged.named(arrays, name) for name in ("prompts", "answers", "ranks"))
        return cls(prompts, answers, ranks, np.asarray(arrays["given"]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that there is, by name."""
        tables = self.prompts.arrays("prompts") | self.answers.arrays("answers") | self.ranks.arrays("ranks")
        return tables | {"given": self.given}

    def fitting(self, limits: TokensConfig) -> tuple[Self, NDArray[np.bool_], int]:
        """Without the answers that do not fit `limits`, and without the rankings of which fewer than two are left.

        Returns the rankings, which of these they are, (N,), and how many answers did not fit.
        """
        owners = np.repeat(np.arange(len(self)), self.ranks.lengths)
        fits = (self.prompts.lengths <= limits.prompt)[owners] & (self.answers.lengths <= limits.response)
        left = np.bincount(owners[fits], minlength=len(self))
        stays = left >= 2
        chosen = fits & stays[owners]
        ranks = Ragged(self.ranks.flat[chosen], np.concatenate([[0], np.cumsum(left[stays])]))
        kept = type(self)(self.prompts.where(stays), self.answers.where(chosen), ranks, self.given[chosen])
        return kept, stays, int((~fits).sum())

    def __len__(self) -> int:
        return len(self.prompts)

    def row(self, place: int) -> RankedTurns:
        """A prompt and its answers, of views; all of them hold the same prompt."""
        prompt = self.prompts[place]
        answers = range(self.ranks.offsets[place], self.ranks.offsets[place + 1])
        turns = (Turn(prompt, self.answers[i], (int(self.given[i, 0]), int(self.given[i, 1]))) for i in answers)
        return RankedTurns(tuple(turns), tuple(self.ranks[place].tolist()))


def encode_rankings(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], limits: TokensConfig
) -> tuple[Rankings, NDArray[np.bool_], int]:
    """Rankings whose every answer fits `limits`, which of the rows they are, and how many answers were too long.

    An answer that is too long leaves its ranking; a ranking with fewer than two answers left is left out.
    """
    rankings = Rankings(
        encode_prompts(tokenizer, (row["prompt"] for row in rows)),
        answers := encode_ended(tokenizer, (text for row in rows for text in row["responses"])),
        Ragged.of(row["ranks"] for row in rows),
        np.zeros((len(answers), 2), dtype=np.int32),
    )
    return rankings.fitting(limits)
