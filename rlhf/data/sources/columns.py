"""Which value of a foreign record becomes which column: names, paths, templates, constants, one column an annotator."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rlhf.data.records import Entry, Record, Unreadable
from rlhf.data.values import conversation
from rlhf.errors import ConfigError, DataError, suggestion

Spec = str | int  # a column's name, a dotted path, a template with {paths}; a number stands for itself
_HOLE = re.compile(r"\{([^{}]+)\}")

# What a file may call a column where params.yaml does not say: our own name, then TRL's.
ALIASES = {
    "response": ("completion",),
    "responses": ("completions",),
    "thumb": ("label",),
    "messages": ("conversations",),
}

# Per table, the sets of columns of which one must be there, in the order in which they are tried.
FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (("prompt", "response"), ("messages",)),
    "comparisons": (("prompt", "chosen", "rejected"), ("prompt", "first", "second", "winner"), ("chosen", "rejected")),
    "ratings": (("prompt", "response", "rating", "scale"),),
    "thumbs": (("prompt", "response", "thumb"),),
    "rankings": (("prompt", "responses", "ranks"),),
    "beliefs": (("prompt", "statements", "votes"),),
    "prompts": (("prompt",), ("messages",)),
    "texts": (("text",),),
}
IMPLICIT = ("chosen", "rejected")  # whole conversations, so that the prompt is what comes before the answers
OPTIONAL: dict[str, tuple[str, ...]] = {
    "demonstrations": ("use_case",),
    "comparisons": ("tie", "strength", "annotator", "group", "criterion"),
    "ratings": ("annotator", "group", "criterion"),
    "thumbs": ("annotator", "group", "criterion"),
    "rankings": ("annotator", "group", "criterion"),
    "beliefs": ("group",),
    "prompts": ("use_case", "kind"),
    "texts": (),
}
_SHOWN = 50  # columns of a file that a message names
_VOTES = ("winner", "rating", "thumb")  # may be a list of columns, one an annotator


@dataclass(frozen=True)
class Mapped:
    """How to read one judgement of a record."""

    specs: Mapping[str, Spec]
    annotator: str | None  # None: the record says it, or nobody does

    def values(self, record: Record) -> Record:
        """The values that the record has for our columns; None where it lacks one."""
        found = {name: _value(record, spec) for name, spec in self.specs.items()}
        return found | ({"annotator": self.annotator} if self.annotator is not None else {})


def mappings(table: str, columns: Mapping[str, Spec | list[str]], entries: Iterable[Entry], name: str) -> list[Mapped]:
    """One mapping for each judgement that a record holds: several where `columns` lists a column an annotator.

    `name` is the source's, for messages. Raises ConfigError for a column that the table does not have and DataError for
    a column or a dotted path that no record has.
    """
    _known(table, columns)
    records = [entry for entry in entries if not isinstance(entry, Unreadable)]
    there = dict.fromkeys(key for record in records for key in record)
    specs: dict[str, Spec | list[str]] = {}
    for ours in dict.fromkeys(column for form in FORMS[table] for column in form) | dict.fromkeys(OPTIONAL[table]):
        if ours in columns:
            specs[ours] = columns[ours]
        elif found := next((alias for alias in (ours, *ALIASES.get(ours, ())) if alias in there), None):
            specs[ours] = found
    for ours, spec in specs.items():
        for path in _paths(spec):
            if path not in there:
                _require(path, records, ours, name)
    form = next((form for form in FORMS[table] if all(column in specs for column in form)), None)
    if form is None or (form == IMPLICIT and not _conversations(records, specs)):
        absent = next(column for column in FORMS[table][0] if column not in specs)
        raise DataError(
            f"{name} has no column `{absent}`, which {table} need. Say which one it is, "
            f"`columns: {{{absent}: NAME}}`{_nearest(absent, there)}"
        )
    chosen = {column: specs[column] for column in (*form, *OPTIONAL[table]) if column in specs}
    return list(_by_annotator(chosen))


def _conversations(records: list[Record], specs: Mapping[str, Any]) -> bool:
    return any(conversation(_value(record, specs["chosen"])) for record in records)


def _by_annotator(specs: dict[str, Any]) -> Iterator[Mapped]:
    votes = next((column for column in _VOTES if isinstance(specs.get(column), list)), None)
    if votes is None:
        yield Mapped(specs, None)
        return
    for column in specs[votes]:
        yield Mapped(specs | {votes: column}, column)


def _known(table: str, columns: Mapping[str, Any]) -> None:
    """Raise ConfigError for a column that the table does not have, and for a list where none may be."""
    names = dict.fromkeys(column for form in FORMS[table] for column in form) | dict.fromkeys(OPTIONAL[table])
    for column, spec in columns.items():
        if column not in names:
            hint = suggestion(column, names)
            raise ConfigError(f"params.yaml: collect.sources: {table} have no column `{column}`; {hint}")
        if isinstance(spec, list) and column not in _VOTES:
            raise ConfigError(
                f"params.yaml: collect.sources: `columns.{column}` is a list; only {', '.join(_VOTES)} may be one: a "
                f"column an annotator"
            )


def _paths(spec: Any) -> Iterator[str]:
    """The columns of the file that a spec reads, or the dotted paths in them."""
    if isinstance(spec, list):
        yield from (path for entry in spec for path in _paths(entry))
    elif isinstance(spec, str):
        yield from _HOLE.findall(spec) or [spec]


def _require(path: str, records: list[Record], ours: str, name: str) -> None:
    """Raise DataError for the first part of a dotted path that no record has."""
    values: list[Any] = list(records)
    above = ""
    for part in path.split("."):
        there = dict.fromkeys(key for value in values for key in _keys(value))
        if part not in there:
            raise DataError(f"{name} has no column `{above}{part}` for `{ours}`{_nearest(part, there, above)}")
        values = [_at(value, part) for value in values]
        above += f"{part}."


def _keys(value: Any) -> Iterable[str]:
    """What may follow a value in a dotted path."""
    if isinstance(value, dict):
        return value
    return map(str, range(len(value))) if isinstance(value, list) else ()


def _value(record: Record, spec: Spec) -> Any:
    if isinstance(spec, int):
        return spec
    if _HOLE.search(spec):
        return _HOLE.sub(lambda hole: _as_text(_at(record, hole[1])), spec).strip()
    return _at(record, spec)


def _at(record: Any, path: str) -> Any:
    """The value at a dotted path; a part that is a number is a place in a list. None where there is nothing."""
    if isinstance(record, dict) and path in record:
        return record[path]
    value = record
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def _nearest(column: str, there: Mapping[str, Any], above: str = "") -> str:
    """What `column` may have meant; `above` is the path, with its dot, that leads to it and to what is there."""
    names = list(there)[:_SHOWN]
    if near := get_close_matches(column, names, n=1):
        return f"; did you mean `{above}{near[0]}`?"
    rest = f" and {len(there) - len(names):,} more" if len(there) > len(names) else ""
    return f". Its columns are {', '.join(above + name for name in names) or 'none'}{rest}"
