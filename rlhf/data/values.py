"""Values of foreign records as the tables' types. What does not fit is kept as text and noted as a defect."""

import json
from collections.abc import Sequence
from typing import Any

from rlhf.data import strict
from rlhf.data.tables import Message, Prompt

Defects = list[str]

ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
YES = frozenset({"true", "yes", "1", "up", "good"})
NO = frozenset({"false", "no", "0", "down", "bad"})


def text(value: Any, name: str, defects: Defects) -> str | None:
    """A text as it is; None where there is none; anything else as JSON, noted."""
    if value is None:
        return None
    if not isinstance(value, str):
        defects.append(f"{name} is not text")
        value = json.dumps(value, ensure_ascii=False, default=str)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        defects.append(f"{name} is not valid Unicode")
        return value.encode("utf-8", "replace").decode()
    if "\x00" in value:
        defects.append(f"{name} holds a NUL")
    return value


def label(value: Any, name: str, defects: Defects) -> str | None:
    """The name of somebody or something; 3, 3.0 and "3" are one. None where there is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
        value = str(int(value))
    return text(value, name, defects)


def whole_number(value: Any, name: str, defects: Defects) -> int | None:
    """An integer, also when it is written as 4.0 or as text; None where there is none."""
    if value is None or value == "":
        return None
    try:
        number = float(value) if not isinstance(value, bool | list | dict) else float("nan")
    except (ValueError, TypeError, OverflowError):
        number = float("nan")
    if number.is_integer() and abs(number) < 2**53:
        return int(number)
    defects.append(f"{name} is not a whole number")
    return None


def number(value: Any, name: str, defects: Defects) -> float | None:
    """A number, also when it is written as text; None where there is none."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        defects.append(f"{name} is not a number")
        return None


def truth(value: Any, name: str, defects: Defects) -> bool | None:
    """A boolean, also when it is written as 1, yes or up; None where there is none."""
    if value is None or value == "":
        return None
    said = word(value)
    if said in YES or said in NO:
        return said in YES
    defects.append(f"{name} is neither true nor false")
    return None


def word(value: Any) -> str:
    """A value as one of the words that files use for it: lower case, and 1 for the 1.0 of a column of floats."""
    return str(value).strip().lower().removesuffix(".0")


def sequence(value: Any, name: str, defects: Defects) -> Sequence[Any]:
    """A list, also when it is written as JSON in one field of a csv file."""
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, list):
        return value
    if value is not None:
        defects.append(f"{name} is not a list")
    return []


def messages(value: Any, defects: Defects) -> Prompt:
    """A prompt: a text becomes one user message; a conversation, also one that is written as JSON, stays one."""
    if (said := conversation(unpacked(value))) is not None:
        return [_message(message, defects) for message in said]
    content = text(value, "prompt", defects)
    return [] if content is None else [{"role": "user", "content": content}]


def conversation(value: Any) -> list[dict[str, Any]] | None:
    """A list of messages, in OpenAI's form (role, content) or ShareGPT's (from, value); None of anything else."""
    return value if isinstance(value, list) and value and all(map(_is_message, value)) else None


def unpacked(value: Any) -> Any:
    """A conversation that is written as JSON in one field; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        return conversation(_parsed(value)) or value
    return value


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and (entry.keys() >= {"role", "content"} or entry.keys() >= {"from", "value"})


def _message(message: dict[str, Any], defects: Defects) -> Message:
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    written = text(role, "role", defects) or ""
    return {"role": ROLES.get(written, written), "content": text(content, "message", defects) or ""}


def _parsed(value: str) -> Any:
    try:
        return strict.loads(value)
    except ValueError:
        return value
