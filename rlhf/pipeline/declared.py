"""What dvc.yaml declares of params.yaml for a stage: its values, and a view of the configuration that shows no more.

What a stage reads but does not declare, DVC does not watch: it would go on using an old output after a change.
"""

import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from rlhf.config import Config
from rlhf.config.reading import look_up, read_yaml
from rlhf.config.section import Section
from rlhf.errors import ConfigError
from rlhf.pipeline.graph import CODE, StageSpec

_VALIDATE = "validate_"  # attribute of the section `validate`: pydantic has a method of that name


def declared_params(spec: StageSpec, workspace: Path) -> dict[str, Any]:
    """The values that dvc.yaml declares for a stage, by dotted key; the fingerprint of its code is not one of them."""
    values: dict[str, Any] = {}
    for file, keys in spec.params.items():
        tree = read_yaml(workspace / file) if file != CODE else {}
        for key in keys if file != CODE else ():
            try:
                values[key] = look_up(tree, key)
            except KeyError:
                raise ConfigError(
                    f"{workspace / file} has no `{key}`, which dvc.yaml declares for `{spec.name}`"
                ) from None
    return values


def declared_view(config: Config, keys: Sequence[str], stage: str) -> Config:
    """`config` with every section readable that is in `keys`, holds one of them or lies in one; others raise."""
    return cast(Config, _View(config, keys, stage, ""))


def declared_sections(config: Config, keys: Sequence[str]) -> list[Section]:
    """The sections of `config` that `keys` name."""
    attributes = (re.sub(r"^validate\b", _VALIDATE, key) for key in keys)
    return [value for name in attributes if isinstance(value := attrgetter(name)(config), Section)]


class _View:
    """One section, or the whole configuration, of which some keys may be read."""

    def __init__(self, section: Any, keys: Sequence[str], stage: str, prefix: str) -> None:
        self.__dict__.update(_section=section, _keys=keys, _stage=stage, _prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        key = self._prefix + ("validate" if name == _VALIDATE else name)
        if key in self._keys:
            return value
        if any(other.startswith(key + ".") for other in self._keys):
            return _View(value, self._keys, self._stage, key + ".")
        raise ConfigError(
            f"Stage `{self._stage}` reads `{key}` of params.yaml, which dvc.yaml does not declare for it. "
            f"Add `{key}` to the stage's `params`"
        )
