"""Edit params.yaml and keep its comments: `rlhf run -S align.dpo.beta=0.1`, and the examples of `rlhf init`."""

import re
from collections.abc import Sequence
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
from rlhf.errors import ConfigError, suggestion

_SECTION = re.compile(r"^([^#\n].*\n)(?=[a-z_]+:)", re.MULTILINE)  # before a section that has lost its blank line


def set_params(path: Path, assignments: Sequence[str]) -> None:
    """Set keys of params.yaml in place: "align.dpo.beta=0.1", the value in YAML; "collect.sources.0.path=x" for a list.

    Raises ConfigError, and leaves the file as it was, when a key is unknown or the whole would not be valid.
    """
    load_config(path)  # what is wrong already is told first
    write_params(path, edited(path.read_text(encoding="utf-8"), assignments))


def write_params(path: Path, text: str) -> None:
    """Write params.yaml, or what it links to."""
    durable.write_text(path.resolve(), text)


def edited(text: str, assignments: Sequence[str]) -> str:
    """The text of params.yaml with keys set as `set_params` does."""
    document = _yaml().load(text)
    keys = []
    for assignment in assignments:
        key, mark, value = assignment.partition("=")
        if not mark or not key:
            raise ConfigError(f"`-S {assignment}` sets nothing. Write -S KEY=VALUE, as in -S align.dpo.beta=0.1")
        _assign(document, key.split("."), _parse(value, f"The value of `-S {key}`"))
        keys.append(key)
    return params_text(document, f"{PARAMS} with {', '.join(f'`{key}`' for key in keys)} as asked for")


def params_text(document: CommentedMap, name: str = PARAMS) -> str:
    """A document as params.yaml, or as what `name` calls it. Raises ConfigError when it would not be a valid one."""
    buffer = StringIO()
    _yaml().dump(document, buffer)
    text = _SECTION.sub(r"\1\n", buffer.getvalue())
    parse_config(parse_yaml(text, name), name)
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
    """A last key that a section lacks is added: some take any name, and the others refuse it when all is read."""
    node = document
    for depth in range(1, len(keys)):
        node = node[_place(node, keys[:depth])]
    if isinstance(node, dict):
        node[keys[-1]] = value
    else:
        node[_place(node, keys)] = value


def _place(node: Any, keys: list[str]) -> Any:
    """The last of `keys` as `node` knows it, a key or an index. Raises ConfigError with the nearest one."""
    *above, key = keys
    path = ".".join(keys)
    if isinstance(node, list):
        if key.isdecimal() and int(key) < len(node):
            return int(key)
        there = f"has the entries 0 to {len(node) - 1}" if node else "is empty"
        raise ConfigError(f"`{path}` is no entry: its list {there}. Set the whole list, as in -S KEY=[A, B]")
    if not isinstance(node, dict):
        raise ConfigError(f"`{path}` cannot be: `{'.'.join(above)}` is {node!r}, not a section")
    if key not in node:
        raise ConfigError(f"unknown key `{path}`; {suggestion(key, node, ''.join(f'{part}.' for part in above))}")
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
