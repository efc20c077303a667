"""Ids that do not change when other rows are added, and the hash that says when two prompts are the same prompt."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

from rlhf.data.tables import DEFAULTS, Message, Row

_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
_NOT_CONTENT = frozenset({"id", "source", "row", "defects"})


def prompt_hash(prompt: Iterable[Message]) -> str:
    """64 hex digits. Prompts are the same when their roles are, and their texts in Unicode's NFC with white space
    collapsed: a copy that went through another editor must not end in another split."""
    return _digest([[message["role"], normalised(message["content"])] for message in prompt])


def opening_hash(prompt: Sequence[Message]) -> str:
    """64 hex digits of the first message of the user: the same for all that go on from it, whatever system message, or
    other word, stands before it. A conversation without one has the hash of the whole."""
    asked = next((message for message in prompt if message["role"] == "user"), None)
    return prompt_hash(prompt if asked is None else [asked])


def text_hash(text: str) -> str:
    """64 hex digits of a plain text, normalised as a prompt is."""
    return _digest(normalised(text))


def lot(identity: str, purpose: str) -> str:
    """64 hex digits: rows in the order of theirs are in a random one that lasts, and is another for each purpose.

    The order of the ids themselves is none: the id of a prompt is a hash by which splits go as well.
    """
    return sha256(f"{purpose} {identity}".encode()).hexdigest()


def normalised(text: str) -> str:
    """NFC, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def add_ids(rows: list[Row]) -> None:
    """Give every row of one table its `id`: a hash of its content (annotator and criterion are part of it) and of how
    many equal rows stand before it. The source's name and the row's place do not count, so a row keeps its id when
    others come; nor does the criterion `overall`, which is that of a source that names none."""
    seen: Counter[str] = Counter()
    for row in rows:
        content = _digest(
            {key: value for key, value in row.items() if key not in _NOT_CONTENT and not _unnamed(key, value)}
        )
        row["id"] = sha256(f"{content} {seen[content]}".encode()).hexdigest()[:16]
        seen[content] += 1


def _unnamed(key: str, value: object) -> bool:
    return key == "criterion" and value == DEFAULTS["criterion"]


def _digest(value: object) -> str:
    return sha256(_JSON.encode(value).encode("utf-8", "surrogatepass")).hexdigest()
