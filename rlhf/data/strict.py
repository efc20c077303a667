"""JSON as its standard has it: what another program would read as something else is refused."""

import json
from typing import Any, NoReturn

DEPTH = 100  # of lists and objects in each other; conversations have 3, a message tree two a turn
DIGITS = 18  # of a whole number, so that it fits in 64 bits


class NotStrict(ValueError):
    """JSON that Python reads and that is not taken; the text says why."""


def loads(text: str) -> Any:
    """The value that `text` holds.

    Raises NotStrict for a key that stands twice in an object, for NaN and infinities, for a whole number of more than
    18 digits or one beyond the range of floats, and for what is nested too deeply; json.JSONDecodeError for no JSON.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise NotStrict(_DEEP) from None
    if text.count("[") + text.count("{") > DEPTH:
        _refuse_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotStrict("a key stands twice in an object")
    return found


def _whole(digits: str) -> int:
    if len(digits.removeprefix("-")) > DIGITS:
        raise NotStrict(f"a whole number has more than {DIGITS} digits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), -float("inf")):
        raise NotStrict("a number is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise NotStrict(f"{name} is not JSON")


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            entry
            for outer in level
            if isinstance(outer, dict | list)
            for entry in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise NotStrict(_DEEP)


_DEEP = f"nested more than {DEPTH} deep"
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_real, parse_constant=_constant)
