"""params.yaml as typed, frozen sections: the only place where a number that changes a run is read."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError

from rlhf.config.algorithms import AlignConfig
from rlhf.config.data import CollectConfig, LabelConfig, ScreenConfig, ValidateConfig
from rlhf.config.gate import GateConfig
from rlhf.config.promotion import PromotionConfig
from rlhf.config.reading import read_yaml
from rlhf.config.section import Section
from rlhf.config.training import (
    BaseConfig,
    DecodingConfig,
    EvaluateConfig,
    RewardConfig,
    SampleConfig,
    SftConfig,
    TokensConfig,
)
from rlhf.config.world import WorldConfig
from rlhf.errors import ConfigError, suggestion
from rlhf.secrets import is_secret, redact


class Config(Section):
    """All of params.yaml."""

    seed: int = Field(ge=0, lt=2**31)
    collect: CollectConfig
    world: WorldConfig
    validate_: ValidateConfig = Field(alias="validate")
    screen: ScreenConfig
    tokens: TokensConfig
    decoding: DecodingConfig
    base: BaseConfig
    sft: SftConfig
    sample: SampleConfig
    label: LabelConfig
    reward: RewardConfig
    align: AlignConfig
    evaluate: EvaluateConfig
    gate: GateConfig
    promotion: PromotionConfig


def load_config(path: Path) -> Config:
    """Read params.yaml. Raises ConfigError, which names every key that is wrong, its limit, and the nearest key."""
    return parse_config(read_yaml(path), str(path))


def load_promotion(path: Path) -> PromotionConfig:
    """The section `promotion` of params.yaml alone: a promotion asks nothing of the rest. Raises as `load_config`."""
    raw = read_yaml(path)
    _refuse_secrets(raw, str(path))
    try:
        return PromotionConfig.model_validate(raw.get("promotion"))
    except ValidationError as error:
        errors = [{**entry, "loc": ("promotion", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise ConfigError(f"{path}: " + "\n".join(_explain(entry, raw) for entry in errors)) from None


def parse_config(raw: dict[str, Any], name: str) -> Config:
    """Validate the sections of `raw`; `name` is where they came from, for messages."""
    _refuse_secrets(raw, name)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(entry, raw) for entry in error.errors(include_url=False)]
        raise ConfigError(f"{name}: " + "\n".join(lines)) from None
    _require_a_world(config, name)
    return config


def _require_a_world(config: Config, name: str) -> None:
    """Raises ConfigError where simulated people would judge what people wrote, of whom they know nothing."""
    asks = {"label.judge": config.label.judge, "evaluate.truth": config.evaluate.truth}
    wrong = [f"`{key}`" for key, asked in asks.items() if asked == "world"]
    if wrong and all(source.kind != "world" for source in config.collect.sources):
        raise ConfigError(
            f"{name}: {' and '.join(wrong)} must be `none` where no source of `collect.sources` is the world: its "
            'people and its truth know nothing of other data. README, "Your own data", says what goes with that'
        )


def _refuse_secrets(value: Any, file: str, key: str = "") -> None:
    """Raises ConfigError for a text below `key` that holds a password or a secret of the environment."""
    if isinstance(value, dict | list):
        for name, entry in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_secrets(entry, file, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and redact(value) != value:
        raise ConfigError(f"{file}: {_no_secret(key)}")


def _no_secret(key: str) -> str:
    return (
        f"`{key}` contains a secret, which would end up in git, DVC and MLflow. Remove it and set it in the "
        "environment: HF_TOKEN for the hub, and for a judge the variable whose name, in capitals, is evaluate.judge.key"
    )


def _explain(entry: Any, raw: dict[str, Any]) -> str:
    """One line for one of pydantic's errors: the key as it stands in the file, what is wrong, what it may be."""
    path, value = _path_in_file(entry["loc"], raw)
    key = ".".join(path)
    if is_secret(path[-1]) and entry["type"] in ("extra_forbidden", "string_pattern_mismatch"):
        return _no_secret(key)
    if entry["type"] == "extra_forbidden":
        above = key.removesuffix(path[-1])
        return f"unknown key `{key}`; {suggestion(path[-1], _known_keys(entry['loc'][:-1]), above)}"
    if entry["type"] == "missing":
        return f"missing key `{key}`"
    if entry["type"] == "value_error":
        return f"`{key}`: {entry['ctx']['error']}"
    if entry["type"] == "union_tag_invalid":
        given, known = entry["ctx"]["tag"], entry["ctx"]["expected_tags"].replace("'", "")
        return f"`{key}.kind` is {given!r}, and may be {known}"
    if entry["type"] in ("float_type", "int_type") and isinstance(value, str):
        return f"`{key}` is the text {value!r}, not a number{_as_number(value, whole=entry['type'] == 'int_type')}"
    return f"`{key}` is {value!r}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _as_number(text: str, *, whole: bool) -> str:
    """How a number has to be written that YAML takes for text, such as 1e-4, or one in quotes."""
    try:
        digits = repr(int(text) if whole else float(text.replace(",", ".")))
    except ValueError:
        return ""
    return f". Write {digits if '.' in digits else digits.replace('e', '.0e')}, without quotes"


def _path_in_file(loc: tuple[str | int, ...], raw: Any) -> tuple[list[str], Any]:
    """Drop the union tags that pydantic puts into a location; return the keys and the value found there."""
    path: list[str] = []
    value = raw
    for position, part in enumerate(loc):
        if isinstance(value, list) and isinstance(part, int) and part < len(value):  # noqa: SIM114
            value = value[part]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        elif position < len(loc) - 1 or (isinstance(value, dict) and value.get("kind") == part):
            continue
        path.append(str(part))
    return path, value


def _known_keys(loc: tuple[str | int, ...]) -> list[str]:
    """Keys of the sections that may stand at `loc`; of a union, those of the member that its tag in `loc` names."""
    sections: list[type[BaseModel]] = [Config]
    for part in loc:
        fields = [f for s in sections for name, f in s.model_fields.items() if part in (name, f.alias)]
        tagged = [
            s for s in sections if "kind" in s.model_fields and part in get_args(s.model_fields["kind"].annotation)
        ]
        sections = [s for field in fields for s in _sections(field.annotation)] or tagged or sections
    return [field.alias or name for s in sections for name, field in s.model_fields.items()]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Section classes inside an annotation such as list[A | B]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections(inner)]
