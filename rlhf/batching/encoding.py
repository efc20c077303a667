"""Conversations to token ids.

Prompt and response are encoded once, apart, and joined as ids: never decoded and encoded again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt with one response."""

    prompt: list[int]  # P ids, ending where the assistant's turn opens
    response: list[int]  # R ids, ending with the end-of-turn token when the answer is whole
    given: tuple[int, int] = (0, 0)  # [first, last) of the response's tokens that are conditioned on, not learned


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Ids of a conversation up to the point where the assistant answers, by the tokenizer's chat template."""
    text = tokenizer.apply_chat_template(
        [{"role": m["role"], "content": m["content"]} for m in messages], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Ids of an answer and the end-of-turn token."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str) -> Turn:
    """Ids of a prompt and its answer."""
    return Turn(encode_prompt(tokenizer, messages), encode_response(tokenizer, response))


def decode(tokenizer: PreTrainedTokenizerBase, response: list[int]) -> str:
    """Text of a sampled answer, without special tokens."""
    return str(tokenizer.decode(response, skip_special_tokens=True)).strip()


def fits(sequence: Turn, limits: Any) -> bool:
    """Whether a sequence keeps within `limits.prompt` and `limits.response` tokens."""
    return len(sequence.prompt) <= limits.prompt and len(sequence.response) <= limits.response
