"""Edit params.yaml and keep its comments: `rlhf run -S align.dpo.beta=0.1`, and the examples of `rlhf init`."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from rlhf import durable
from rlhf.config import load_config, parse_config
from rlhf.config.reading import PARAMS, parse_yaml, read_yaml, require_plain
from rlhf.errors import ConfigError

_SECTION = re.compile(r"^([^#\n].*\n)(?=[a-z_]+:)", re.MULTILINE)  # before a section that has lost its blank line


def set_params(path: Path, assignments: Sequence[str]) -> None:
    """Set keys of params.yaml in place: "align.dpo.beta=0.1", the value in YAML; "collect.sources.0.path=x" for a list.

    Raises ConfigError, and leaves the file as it was, when a key is unknown or the whole would not be valid.
    """
    load_config(path)  # what is wrong already is told first
    durable.write_text(path, edited(path.read_text(encoding="utf-8"), assignments))


def edited(text: str, assignments: Sequence[str]) -> str:
    """The text of params.yaml with keys set as `set_params` does."""
    document = _yaml().load(text)
    for assignment in assignments:
        key, mark, value = assignment.partition("=")
        if not mark or not key:
            raise ConfigError(f"`-S {assignment}` sets nothing. Write -S KEY=VALUE, as in -S align.dpo.beta=0.1")
        _assign(document, key.split("."), _parse(value, f"The value of `-S {key}`"))
    return params_text(document)


def params_text(document: CommentedMap) -> str:
    """A document as params.yaml. Raises ConfigError when it would not be a valid one."""
    buffer = StringIO()
    _yaml().dump(document, buffer)
    text = _SECTION.sub(r"\1\n", buffer.getvalue())
    parse_config(parse_yaml(text, PARAMS), PARAMS)
    return text


def read_document(path: Path) -> CommentedMap:
    """A YAML file with its comments. Raises ConfigError."""
    read_yaml(path)  # says what is wrong and quotes nothing
    return _yaml().load(path.read_text(encoding="utf-8"))


def overlay(document: CommentedMap, changes: CommentedMap) -> None:
    """Lay `changes` over `document`: sections key by key, anything else whole, and so a section of another `kind`."""
    for key, value in changes.items():
        old = document.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        if both and old.get("kind") == value.get("kind", old.get("kind")):
            overlay(old, value)
        else:
            document[key] = value


def _yaml() -> YAML:
    """The layout of params.yaml: long comments are not wrapped, quotes stay."""
    editor = YAML()
    editor.Representer = _Representer
    editor.width = 4096
    editor.preserve_quotes = True
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor


def _assign(document: Any, keys: list[str], value: Any) -> None:
    node = document
    for depth, key in enumerate(keys):
        place = _place(node, key, ".".join(keys[: depth + 1]))
        if depth == len(keys) - 1:
            node[place] = value
        else:
            node = node[place]


def _place(node: Any, key: str, path: str) -> Any:
    """The key or index as `node` knows it. Raises ConfigError with the nearest one."""
    if isinstance(node, list):
        if key.isdecimal() and int(key) < len(node):
            return int(key)
        there = f"has the entries 0 to {len(node) - 1}" if node else "is empty"
        raise ConfigError(f"`{path}` is no entry: its list {there}. Set the whole list, as in -S KEY=[A, B]")
    if not isinstance(node, dict):
        raise ConfigError(f"`{path}` cannot be: `{path.rpartition('.')[0]}` is {node!r}, not a section")
    if key not in node:
        near = get_close_matches(key, list(node), n=1, cutoff=0.5)
        hint = ".".join([*path.split(".")[:-1], near[0]]) if near else ""
        known = f"did you mean `{hint}`?" if near else f"known here: {', '.join(node)}"
        raise ConfigError(f"unknown key `{path}`; {known}")
    return key


def _parse(text: str, name: str) -> Any:
    """A value in YAML; `name` is for messages."""
    require_plain(text, name)
    try:
        return _plain(_yaml().load(text))
    except (YAMLError, ValueError):  # ValueError: a date that there is not
        raise ConfigError(f"{name} is not YAML that every parser reads alike. Quote it") from None


def _plain(value: Any) -> Any:
    """The value with every float as Python's own, which `_Representer` writes."""
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict | list):
        for place, entry in value.items() if isinstance(value, dict) else enumerate(value):
            value[place] = _plain(entry)
    return value


class _Representer(RoundTripRepresenter):
    """Writes floats exactly, and so that every reader takes them for numbers: 2e-05 is a text in YAML 1.1; and null."""

    def represent_exactly(self, value: float) -> Any:
        """A float as a YAML scalar; for infinities and NaN as ruamel does."""
        digits = repr(value)
        if "e" not in digits or "." in digits:
            return self.represent_float(value)
        return self.represent_scalar("tag:yaml.org,2002:float", digits.replace("e", ".0e"))

    def represent_null(self, _: None) -> Any:
        """The word, where ruamel leaves nothing."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(float, _Representer.represent_exactly)
_Representer.add_representer(type(None), _Representer.represent_null)
