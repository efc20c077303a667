"""YAML files as mappings, read so that nobody reads them otherwise: DVC goes by YAML 1.2, PyYAML by 1.1.

A key stands once, nothing is an alias or has a tag, and what one version takes for a number or a truth and the other
for a text or another number is refused: 010, 1_000, 1:30, no, on. What is said about a fault names its place and does
not quote it: a secret may stand there.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import ConfigError

PARAMS = "params.yaml"  # in a workspace
SIZE = 1 << 20  # bytes of a file
DEPTH = 50  # of lists and mappings in each other
_INTEGER = re.compile("[-+]?(0|[1-9][0-9]*)")
_TRUTHS = ("true", "false")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ConfigError, with the line."""
    try:
        with open(path, "rb") as file:
            content = file.read(SIZE + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Run this in a workspace, or make one: rlhf init DIR") from None
    if len(content) > SIZE:
        raise ConfigError(f"{path} has more than {SIZE:,} bytes, which is no file that people wrote")
    try:
        return parse_yaml(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping that a text holds; `name` is where it is from, for messages. Raises ConfigError."""
    require_plain(text, name)
    with _faults_told(text, name):
        value = yaml.load(text, Loader=_Loader)
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must hold a mapping, not {type(value).__name__}")
    return value


def look_up(tree: Any, key: str) -> Any:
    """The value at a dotted key such as `collect.sources[0].path`. Raises KeyError."""
    value = tree
    for part in key.replace("[", ".").replace("]", "").split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(key) from None
    return value


def require_plain(text: str, name: str) -> None:
    """Raises ConfigError for what is not YAML, for a tag, for an alias, by which a few lines become millions of values,
    and for deep nesting."""
    depth = 0
    with _faults_told(text, name):
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise _refusal(event, "an alias; write the value out")
            if getattr(event, "tag", None):
                raise _refusal(event, "a tag; write the value without it, or quote it")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise _refusal(event, f"nested more than {DEPTH} deep")


@contextmanager
def _faults_told(text: str, name: str) -> Iterator[None]:
    """YAML's faults as ConfigErrors: what is wrong and where, without the lines that the parser would show."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        at, lines = error.problem_mark, [*text.split("\n"), ""]  # a fault may stand after the last
        if at and lines[at.line][at.column : at.column + 1] == "\t":
            error.context, error.problem = None, "a tab; indent by spaces"
        parts = [(error.context, error.context_mark), (error.problem, error.problem_mark)]
        told = [f"{what} (line {on.line + 1}, column {on.column + 1})" if on else what for what, on in parts if what]
        raise ConfigError(f"{name} is not YAML: {': '.join(told)}") from None
    except yaml.reader.ReaderError as error:  # a character that YAML does not have
        before = text[: text.index(chr(error.character))].split("\n")
        place = f"line {len(before)}, column {len(before[-1]) + 1}"
        raise ConfigError(f"{name} is not YAML: {error.reason} ({place})") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that there is not
        raise ConfigError(f"{name} is not YAML: {error}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, and stricter."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping in which no key stands twice."""
        found = super().construct_mapping(node, deep=True)
        if len(found) < len(node.value):
            seen = set[str]()
            for key, _ in node.value:
                if key.value in seen:
                    raise _refusal(key, f"`{key.value}` stands here twice")
                seen.add(key.value)
        return found

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """A whole number in decimal digits."""
        if not _INTEGER.fullmatch(node.value):
            problem = "an integer that YAML 1.1 and 1.2 read differently; write it in plain decimal digits, or quote it"
            raise _refusal(node, problem)
        return int(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """A fraction without what one YAML alone takes for a part of it."""
        if set(node.value) & set(":_"):
            problem = "a number in YAML 1.1 and text in 1.2; write it in plain decimal digits, or quote it"
            raise _refusal(node, problem)
        return float(super().construct_yaml_float(node))

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        """True or false in these words."""
        if node.value.lower() not in _TRUTHS:
            problem = f"`{node.value}` is a boolean in YAML 1.1 and text in 1.2; write true or false, or quote it"
            raise _refusal(node, problem)
        return node.value.lower() == "true"


def _refusal(place: Any, problem: str) -> yaml.MarkedYAMLError:
    """`place`: a node or an event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_truth)
