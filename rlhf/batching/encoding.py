"""Conversations to token ids.

Prompt and response are encoded once, apart, and joined as ids: never decoded and encoded again. A special token stands
only where the chat template put it: what people or models wrote is text, whatever it spells.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlhf.batching.ragged import Ragged, Rows
from rlhf.config.training import TokensConfig
from rlhf.errors import DataError

Messages = Sequence[Mapping[str, str]]
T = TypeVar("T")
Ids = NDArray[np.int32] | list[int]  # of a table, a view; of what has just been sampled, a list

_PLACE = re.compile("\ue000(\\d+)\ue001")  # where a message stands; of characters that no template uses
_AT_ONCE = 1024  # texts that the tokenizer is given in one call: enough to hide the call, few in memory as lists


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One prompt with one response."""

    prompt: Ids  # P ids, ending where the assistant's turn opens
    response: Ids  # R ids, ending with the end-of-turn token when the answer is whole
    given: tuple[int, int] = (0, 0)  # [first, last) of the response's tokens that are conditioned on, not learned

    @property
    def tokens(self) -> int:
        """Of prompt and response together."""
        return len(self.prompt) + len(self.response)


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

    def fit(self, limits: TokensConfig) -> NDArray[np.bool_]:
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
    return next(encode_conversations(tokenizer, [messages], opens=True))


def encode_prompts(tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Messages]) -> Ragged:
    """Ids of many conversations, as `encode_prompt` gives them."""
    return Ragged.of(encode_conversations(tokenizer, conversations, opens=True))


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Messages], *, opens: bool
) -> Iterator[list[int]]:
    """Ids of each conversation by the tokenizer's chat template; `opens`: up to where the assistant answers.

    Raises DataError where a message spells a special token and the template changes what stands in a message.
    """
    special = re.compile("|".join(map(re.escape, _special(tokenizer))) or "(?!)")
    for some in _parts(conversations):
        texts = [_render(tokenizer, messages, opens) for messages in some]
        for messages, ids in zip(some, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            spelled = any(special.search(message["content"]) for message in messages)
            yield _encode_apart(tokenizer, messages, opens) if spelled else ids


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids of each text, without a special token."""
    for some in _parts(texts):
        yield from tokenizer(some, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_ended(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Ragged:
    """Ids of each text, an answer or a document, with the token that ends it."""
    return Ragged.of([*ids, tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts))


def encode_turns(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> Turns:
    """Ids of rows that hold a `prompt` and a `response`."""
    prompts = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    return Turns(prompts, encode_ended(tokenizer, (row["response"] for row in rows)))


def decode(tokenizer: PreTrainedTokenizerBase, response: list[int]) -> str:
    """Text of a sampled answer, without special tokens."""
    return str(tokenizer.decode(response, skip_special_tokens=True)).strip()


def _encode_apart(tokenizer: PreTrainedTokenizerBase, messages: Messages, opens: bool) -> list[int]:
    """Ids of a conversation whose messages spell special tokens: the template's words and theirs, each by itself."""
    places = [{"role": message["role"], "content": f"\ue000{n}\ue001"} for n, message in enumerate(messages)]
    frames = _PLACE.split(_render(tokenizer, places, opens))
    contents = [message["content"] for message in messages]
    whole = _render(tokenizer, messages, opens)
    for said in (contents, [content.strip() for content in contents]):  # some templates strip
        words = [said[int(part)] if n % 2 else part for n, part in enumerate(frames)]
        if "".join(words) == whole:
            ids = (
                tokenizer(word, add_special_tokens=False, split_special_tokens=n % 2 == 1)["input_ids"]
                for n, word in enumerate(words)
            )
            return [token for some in ids for token in some]
    spelled = next(content for content in contents if any(token in content for token in _special(tokenizer)))
    raise DataError(
        f"The message {spelled[:60]!r} spells a special token, and the chat template changes messages, so that the two "
        "cannot be told apart. Take such rows out, or give the model a template that leaves messages as they are"
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of all special tokens, longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, opens: bool) -> str:
    said = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=opens))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in said)
        raise DataError(
            f"The chat template refuses a conversation of {roles}, which begins {said[0]['content'][:60]!r}: {error}. "
            "Take such rows out, or give the model a template that takes them"
        ) from None


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    waiting = iter(items)
    while some := list(islice(waiting, _AT_ONCE)):
        yield some
