"""Texts as words: runs of letters with their marks and of digits, in lower case."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rlhf.data.tables import Prompt

_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\pM*)"
_LOOSE_MARKS = r"(^|[^\pL\pM\pN])\pM+"  # of an emoji
LARGE_TEXT = pa.large_string()  # a table may hold more than 2 GB


def joined(prompts: Iterable[Prompt]) -> pa.Array:
    """Each prompt as one text: all its messages in a row."""
    return pa.array([" ".join(message["content"] for message in prompt) for prompt in prompts], LARGE_TEXT)


def cleaned(texts: pa.Array) -> pa.Array:
    """The words of each text, in NFC, with one space between them; of a script that puts none, every letter is one."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.replace_substring_regex(pc.utf8_normalize(texts, "NFC"), _LOOSE_MARKS, r"\1")
        texts = pc.replace_substring_regex(texts, _UNSPACED, r" \1 ")
    spaced = pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\pL\pM\pN]+", " ")
    return pc.utf8_trim(spaced, " ")


def split(texts: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Every word of cleaned texts in a row, and the place of the text that it is of. An empty text has one, which is
    empty."""
    lists = pc.split_pattern(texts, " ")
    return lists.flatten(), pc.list_parent_indices(lists).to_numpy()
