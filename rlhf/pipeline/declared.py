"""A view of the configuration that shows a stage only what dvc.yaml declares for it.

What a stage reads but does not declare, DVC does not watch: it would go on using an old output after a change.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, cast

from rlhf.config import Config
from rlhf.config.section import Section
from rlhf.errors import ConfigError


def declared_view(config: Config, keys: Sequence[str], stage: str) -> Config:
    """`config` with every section readable that is in `keys`, holds one of them or lies in one; others raise."""
    return cast(Config, _View(config, keys, stage, ""))


def declared_sections(config: Config, keys: Sequence[str]) -> list[Section]:
    """The sections of `config` that `keys` name."""
    return [value for key in keys if isinstance(value := attrgetter(key)(config), Section)]


class _View:
    """One section, or the whole configuration, of which some keys may be read."""

    def __init__(self, section: Any, keys: Sequence[str], stage: str, prefix: str) -> None:
        self.__dict__.update(_section=section, _keys=keys, _stage=stage, _prefix=prefix)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        key = self._prefix + name.removesuffix("_")  # the section `validate` is the attribute `validate_`
        if key in self._keys:
            return value
        if any(other.startswith(key + ".") for other in self._keys):
            return _View(value, self._keys, self._stage, key + ".")
        raise ConfigError(
            f"Stage `{self._stage}` reads `{key}` of params.yaml, which dvc.yaml does not declare for it. "
            f"Add `{key}` to the stage's `params`"
        )
