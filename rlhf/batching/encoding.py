"""Conversations to token ids.

Prompt and response are encoded once, apart, and joined as ids: never decoded and encoded again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlhf.batching.ragged import Ragged, Rows

Messages = Sequence[Mapping[str, str]]
Ids = NDArray[np.int32] | list[int]  # of a table, a view; of what has just been sampled, a list

_AT_ONCE = 1024  # texts that the tokenizer is given in one call: enough to hide the call, few in memory as lists


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One prompt with one response."""

    prompt: Ids  # P ids, ending where the assistant's turn opens
    response: Ids  # R ids, ending with the end-of-turn token when the answer is whole
    given: tuple[int, int] = (0, 0)  # [first, last) of the response's tokens that are conditioned on, not learned


@dataclass(frozen=True, slots=True, eq=False)
class Turns(Rows[Turn]):
    """N prompts with one response each."""

    prompts: Ragged
    responses: Ragged

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> Self:
        """From what `arrays` gave."""
        return cls(Ragged.named(arrays, "prompts"), Ragged.named(arrays, "responses"))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that there is, by name."""
        return self.prompts.arrays("prompts") | self.responses.arrays("responses")

    def fit(self, limits: Any) -> NDArray[np.bool_]:
        """(N,) whether each keeps within `limits.prompt` and `limits.response` tokens."""
        return (self.prompts.lengths <= limits.prompt) & (self.responses.lengths <= limits.response)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Those where `chosen`, (N,), is True."""
        return type(self)(self.prompts.where(chosen), self.responses.where(chosen))

    def __len__(self) -> int:
        return len(self.prompts)

    def row(self, place: int) -> Turn:
        """A turn, of views."""
        return Turn(self.prompts[place], self.responses[place])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Ids of a conversation up to the point where the assistant answers, by the tokenizer's chat template."""
    return tokenizer(_as_text(tokenizer, messages), add_special_tokens=False)["input_ids"]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Messages]) -> Ragged:
    """Ids of many conversations, as `encode_prompt` gives them."""
    return Ragged.of(_encode(tokenizer, (_as_text(tokenizer, messages) for messages in conversations)))


def encode_responses(tokenizer: PreTrainedTokenizerBase, responses: Iterable[str]) -> Ragged:
    """Ids of answers, each with the end-of-turn token."""
    return Ragged.of([*ids, tokenizer.eos_token_id] for ids in _encode(tokenizer, responses))


def encode_turns(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> Turns:
    """Ids of rows that hold a `prompt` and a `response`."""
    prompts = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    return Turns(prompts, encode_responses(tokenizer, (row["response"] for row in rows)))


def decode(tokenizer: PreTrainedTokenizerBase, response: list[int]) -> str:
    """Text of a sampled answer, without special tokens."""
    return str(tokenizer.decode(response, skip_special_tokens=True)).strip()


def _as_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    said = [{"role": message["role"], "content": message["content"]} for message in messages]
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Iterator[list[int]]:
    waiting = iter(texts)
    while some := list(islice(waiting, _AT_ONCE)):
        yield from tokenizer(some, add_special_tokens=False)["input_ids"]
