"""Where an answer states a belief: the spans of belief-conditioned preferences, as token ids.

An answer is what stands before its statement, the statement, and what stands after. A policy that is asked what it
believes is asked at that place: with the prompt and what stands before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.batching.batches import SequenceBatch, arranged, pad
from rlhf.batching.encoding import Turn, encode_ended, encode_prompts
from rlhf.batching.ragged import Ragged
from rlhf.batching.rankings import Rankings
from rlhf.batching.transfer import to_device
from rlhf.config.training import TokensConfig

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Poll:
    """The beliefs that may be stated at one place, and how many people hold each."""

    statements: tuple[Turn, ...]  # K of them: up to the place, and the statement
    votes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PollBatch:
    """B polls of up to K beliefs each; the statements of all stand in one batch of sequences."""

    statements: SequenceBatch  # (S, T), those of poll 0, then those of poll 1, ...
    votes: Tensor  # (B, K) float, 0 where there is no belief
    mask: Tensor  # (B, K) bool, True where there is a belief

    def per_belief(self, values: Tensor) -> Tensor:
        """Arrange one value a statement, (S,), as (B, K), zero where there is no belief."""
        return arranged(values, self.mask)

    def to(self, device: torch.device) -> "PollBatch":
        """The same batch on `device`."""
        return PollBatch(self.statements.to(device), to_device(self.votes, device), to_device(self.mask, device))


@dataclass(frozen=True, slots=True)
class Stated:
    """An answer that states one belief."""

    before: str
    belief: int  # its place among the statements
    after: str


def pad_polls(polls: Sequence[Poll]) -> PollBatch:
    """Several polls as one batch."""
    sizes = torch.tensor([len(poll.votes) for poll in polls])
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    votes = torch.tensor([float(count) for poll in polls for count in poll.votes])
    statements = pad([turn for poll in polls for turn in poll.statements])
    return PollBatch(statements, arranged(votes, mask), mask)


def find_statement(response: str, statements: Sequence[str]) -> Stated | None:
    """The one statement that the answer makes, once; None where it makes none or several."""
    if sum(response.count(statement) for statement in statements) != 1:
        return None
    belief = next(place for place, statement in enumerate(statements) if statement in response)
    before, after = response.split(statements[belief])
    return Stated(before, belief, after)


def encode_poll(tokenizer: PreTrainedTokenizerBase, prompt: list[int], before: str, poll: Row) -> Poll:
    """A row of table `beliefs`, asked after `prompt` (ids) and `before`."""
    turns = []
    for statement in poll["statements"]:
        ids, (first, last) = _encode_span(tokenizer, before, statement, "")
        turns.append(Turn(prompt + ids[:first], ids[first:last]))
    return Poll(tuple(turns), tuple(map(int, poll["votes"])))


def encode_conditioned(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[tuple[Row, Row | None]], limits: TokensConfig
) -> tuple[Rankings, list[Poll | None], int]:
    """Rankings given the belief of the best answer that states one, the poll that each is calibrated to, and how many
    answers were too long.

    rows: of table `rankings`, each with the row of table `beliefs` that has its prompt, or None. An answer that is too
    long states nothing; a poll of which a statement would be, after what stands before, is None.
    """
    asked_of = list(rows)
    short, left_out = _short(tokenizer, [row for row, _ in asked_of], limits)
    conditioned = [_conditioned(tokenizer, row, poll) for row, (_, poll) in zip(short, asked_of, strict=True)]
    groups, kept, too_long = Rankings(
        encode_prompts(tokenizer, (one.row["prompt"] for one in conditioned)),
        encode_ended(tokenizer, (text for one in conditioned for text in one.responses)),
        Ragged.of(one.row["ranks"] for one in conditioned),
        np.array([span for one in conditioned for span in one.given], dtype=np.int32).reshape(-1, 2),
    ).fitting(limits)
    asked = (conditioned[place].asked for place in np.flatnonzero(kept))
    polls = [
        _fitting(encode_poll(tokenizer, prompt.tolist(), *found), len(prompt), limits) if found else None
        for prompt, found in zip(groups.prompts, asked, strict=True)
    ]
    return groups, polls, left_out + too_long


def _short(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], limits: TokensConfig) -> tuple[list[Row], int]:
    """Rows of table `rankings` without the answers that are too long, and how many these are."""
    lengths = encode_ended(tokenizer, (text for row in rows for text in row["responses"])).lengths
    fits = iter((lengths <= limits.response).tolist())
    chosen = [list(islice(fits, len(row["responses"]))) for row in rows]
    short = [
        row | {name: list(compress(row[name], stays)) for name in ("responses", "ranks")}
        for row, stays in zip(rows, chosen, strict=True)
    ]
    return short, int((lengths > limits.response).sum())


def _fitting(poll: Poll, prompt: int, limits: TokensConfig) -> Poll | None:
    """The poll, if what it adds to the `prompt` tokens that were asked is never longer than an answer may be."""
    return poll if max(turn.tokens for turn in poll.statements) - prompt <= limits.response else None


@dataclass(frozen=True, slots=True)
class _Conditioned:
    """A ranking whose answers state one belief."""

    row: Row  # of table `rankings`
    responses: list[str]
    given: list[tuple[int, int]]  # of each, the tokens that state the belief; (0, 0) where none do
    asked: tuple[str, Row] | None  # what stands before the best one's statement, and the poll


def _conditioned(tokenizer: PreTrainedTokenizerBase, row: Row, poll: Row | None) -> _Conditioned:
    """Every answer that states a belief states that of the best one instead, and the statement is given (lecture 000:
    y_c > y_r under b_c). One that states none stays as it is, as does a ranking without a statement or a poll."""
    stated = [find_statement(text, poll["statements"]) if poll else None for text in row["responses"]]
    ranked = [(rank, own) for rank, own in zip(row["ranks"], stated, strict=True) if own]
    if poll is None or not ranked:
        return _Conditioned(row, row["responses"], [(0, 0)] * len(stated), None)
    _, best = min(ranked, key=lambda one: one[0])
    statement = poll["statements"][best.belief]
    responses = [
        own.before + statement + own.after if own else text for text, own in zip(row["responses"], stated, strict=True)
    ]
    given = [_encode_span(tokenizer, own.before, statement, own.after)[1] if own else (0, 0) for own in stated]
    return _Conditioned(row, responses, given, (best.before, poll))


def _encode_span(
    tokenizer: PreTrainedTokenizerBase, before: str, statement: str, after: str
) -> tuple[list[int], tuple[int, int]]:
    """Ids of the three in a row, and the [first, last) of the tokens that hold a letter of the statement."""
    encoded = tokenizer(
        before + statement + after, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    start, end = len(before), len(before) + len(statement)
    inside = [place for place, (low, high) in enumerate(encoded["offset_mapping"]) if low < end and high > start]
    return encoded["input_ids"], (inside[0], inside[-1] + 1)
