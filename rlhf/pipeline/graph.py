"""dvc.yaml read into stages and edges, without DVC: for stages, the flow and the fingerprints.

What is read is DVC's own syntax, and the part of it that pipelines here use: `stages` with cmd, deps, outs, metrics,
plots, params, meta, frozen; `foreach` over a list or a mapping; `${key.path[0]}` from params.yaml. A test compares the
result with DVC's graph.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rlhf.config.reading import PARAMS, look_up, read_yaml
from rlhf.errors import ConfigError, suggestion

CODE = "code.json"  # in a workspace, as the next
CHAMPION = "champion.json"
BLIND = ("size", "nfiles")  # left out of the run cache's key at any depth: dvc/stage/cache.py, _get_cache_hash
_LIMITS = ("timeout", "stalled")  # of `meta`, in seconds
_NUMBERS = (*_LIMITS, "retries", "retry_delay")
_META = ("gpu", *_NUMBERS)
_ITEM = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}")  # part of a path and of a command
_INTERPOLATION = re.compile(r"\$\{\s*([^}]+?)\s*\}")


@dataclass(frozen=True)
class StageSpec:
    """One stage as dvc.yaml declares it. Paths are relative to the workspace."""

    name: str  # "align@ppo"
    cmd: str
    deps: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()  # what it reads: its deps, those that hold outputs of other stages as these outputs
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # file: dotted keys
    meta: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False  # by `dvc freeze`: it stays as it is, whatever changes before it

    @property
    def made(self) -> tuple[str, ...]:
        """Everything that the stage writes: outs, metrics and plots."""
        return self.outs + self.metrics + self.plots

    @property
    def program(self) -> str:
        """The stage's name without its item: "align" for "align@ppo"."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Graph:
    """The stages in an order in which they can run, and the stages that each one waits for."""

    stages: Mapping[str, StageSpec]
    upstream: Mapping[str, tuple[str, ...]]

    def __iter__(self) -> Iterator[StageSpec]:
        return iter(self.stages.values())

    @property
    def sources(self) -> Iterator[tuple[StageSpec, str]]:
        """Every dep that comes from outside, with its stage: no stage makes it, anything in it or what it lies in."""
        made = [path for spec in self for path in spec.made]
        return ((spec, dep) for spec in self for dep in spec.deps if not any(_touch(dep, path) for path in made))


def load_graph(workspace: Path) -> Graph:
    """Read dvc.yaml and params.yaml. Raises ConfigError, which names the stage and the key that is wrong."""
    declared = read_yaml(workspace / "dvc.yaml").get("stages") or {}
    if not isinstance(declared, dict):
        raise ConfigError(f"dvc.yaml: `stages` must be a mapping from names to stages, not {declared!r:.80}")
    params = read_yaml(workspace / PARAMS)
    _refuse_blind_keys(params, ())
    specs = {spec.name: spec for name, entry in declared.items() for spec in _stages(name, entry, params)}
    _refuse_shared(specs)
    upstream = {name: tuple(_upstream(spec, specs)) for name, spec in specs.items()}
    made = [path for spec in specs.values() for path in spec.made]
    return Graph({name: _reading(specs[name], made) for name in _ordered(upstream)}, upstream)


def _refuse_blind_keys(tree: Any, path: tuple[str, ...]) -> None:
    """Raises ConfigError for a parameter that DVC's run cache does not see: a change would restore an old output."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key in BLIND:
            name = ".".join([*path, key])
            raise ConfigError(f"{PARAMS}: `{name}` needs another name: DVC's run cache does not see keys named `{key}`")
        _refuse_blind_keys(value, (*path, str(key)))


def _refuse_shared(specs: Mapping[str, StageSpec]) -> None:
    """Raises ConfigError for an output that two stages make, or that holds one of another: DVC deletes it before
    either runs."""
    makers = dict[str, str]()
    for name, spec in specs.items():
        for path in spec.made:
            if (other := makers.setdefault(path, name)) != name:
                raise ConfigError(
                    f"dvc.yaml: `{path}` is an output of `{other}` and of `{name}`. Take it out of one of them"
                )
    for path, name in makers.items():
        for place in map(str, PurePosixPath(path).parents):
            if (other := makers.get(place, name)) != name:
                raise ConfigError(
                    f"dvc.yaml: `{place}`, an output of `{other}`, holds `{path}`, one of `{name}`. Put one elsewhere"
                )


def _stages(name: str, entry: Any, params: dict[str, Any]) -> Iterator[StageSpec]:
    """The stage that an entry declares, or one for each of its items."""
    if not isinstance(entry, dict) or "matrix" in entry:
        raise ConfigError(f"dvc.yaml: stage `{name}` must be a mapping with `cmd`, or with `foreach` and `do`")
    if "foreach" not in entry:
        yield _stage(name, entry, params)
        return
    items = _interpolated(name, entry["foreach"], params)
    if not isinstance(items, list | dict) or "do" not in entry:
        raise ConfigError(f"dvc.yaml: stage `{name}` needs a list or a mapping in `foreach`, and a `do`")
    pairs = items.items() if isinstance(items, dict) else ((item, item) for item in items)
    for key, item in pairs:
        if not _ITEM.fullmatch(str(key)):
            raise ConfigError(
                f"dvc.yaml: `{str(key)[:80]}` of stage `{name}` is no name: up to 64 letters, digits, _, . and -, "
                "and neither . nor - first"
            )
        yield _stage(f"{name}@{key}", entry["do"], {**params, "item": item, "key": key})


def _stage(name: str, entry: dict[str, Any], params: dict[str, Any]) -> StageSpec:
    entry = _interpolated(name, entry, params)
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str):
        raise ConfigError(f"dvc.yaml: stage `{name}` has no `cmd`")
    if "wdir" in entry:
        raise ConfigError(f"dvc.yaml: stage `{name}` has a `wdir`, and stages run in the workspace. Take it out")
    keys: dict[str, list[str]] = {}
    for param in _listed(name, entry, "params"):
        for file, names in param.items() if isinstance(param, dict) else [(PARAMS, [param])]:
            keys.setdefault(file, []).extend(names or ())
    kinds = ("deps", "outs", "metrics", "plots")
    paths: dict[str, Any] = {kind: tuple(map(_path, _listed(name, entry, kind))) for kind in kinds}
    declared = {file: tuple(names) for file, names in keys.items()}
    meta, frozen = _meta(name, entry.get("meta") or {}), entry.get("frozen") is True
    spec = StageSpec(name, entry["cmd"], **paths, params=declared, meta=meta, frozen=frozen)
    _require_inside(spec)
    _require_known(spec, params)
    return spec


def _listed(stage: str, entry: dict[str, Any], key: str) -> list[Any]:
    """What stands at a key of a stage. Raises ConfigError for what is no list."""
    found = entry.get(key)
    if not isinstance(found, list | None):
        raise ConfigError(f"dvc.yaml: `{key}` of stage `{stage}` must be a list, not {found!r:.80}")
    return found or []


def _require_inside(spec: StageSpec) -> None:
    """Raises ConfigError for an output outside the workspace, which DVC cannot keep."""
    for path in map(PurePosixPath, spec.made):
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"dvc.yaml: `{path}`, an output of stage `{spec.name}`, lies outside the workspace. Put it inside"
            )


def _require_known(spec: StageSpec, params: dict[str, Any]) -> None:
    """Raises ConfigError for a parameter that params.yaml does not hold."""
    for name in spec.params.get(PARAMS, ()):
        try:
            look_up(params, name)
        except KeyError:
            raise ConfigError(
                f"dvc.yaml: stage `{spec.name}` has the parameter `{name}`, which params.yaml does not hold"
            ) from None


def _meta(stage: str, meta: Any) -> dict[str, Any]:
    """What the supervisor needs. Raises ConfigError for an unknown key, and for what must be a number and is none."""
    if not isinstance(meta, dict):
        raise ConfigError(f"dvc.yaml: `meta` of stage `{stage}` must be a mapping, not {meta!r}")
    for key, value in meta.items():
        if key not in _META:
            hint = suggestion(str(key), _META, "meta.")
            raise ConfigError(f"dvc.yaml: unknown key `meta.{key}` of stage `{stage}`; {hint}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if key in _NUMBERS and not (number and (value or key not in _LIMITS)):
            wanted = "above 0, or take it out" if key in _LIMITS else "from 0 on"
            raise ConfigError(f"dvc.yaml: `meta.{key}` of stage `{stage}` is {value!r}. Give it a number {wanted}")
    return meta


def _path(entry: Any) -> str:
    """An output is a path, or a mapping from the path to its settings."""
    return PurePosixPath(str(next(iter(entry)) if isinstance(entry, dict) else entry)).as_posix()


def _interpolated(stage: str, value: Any, params: dict[str, Any]) -> Any:
    """`value` with every `${key}` replaced; a string that is one `${key}` becomes what stands there."""
    if isinstance(value, dict):
        return {_interpolated(stage, k, params): _interpolated(stage, v, params) for k, v in value.items()}
    if isinstance(value, list):
        return [_interpolated(stage, entry, params) for entry in value]
    if not isinstance(value, str):
        return value
    try:
        whole = _INTERPOLATION.fullmatch(value)
        return look_up(params, whole[1]) if whole else _INTERPOLATION.sub(lambda m: str(look_up(params, m[1])), value)
    except KeyError as error:
        raise ConfigError(
            f"dvc.yaml: stage `{stage}` uses ${{{error.args[0]}}}, which params.yaml does not hold"
        ) from None


def _upstream(spec: StageSpec, specs: dict[str, StageSpec]) -> Iterator[str]:
    """Stages of which a dep of `spec` is an output, lies in one, or holds one."""
    for name, other in specs.items():
        if name != spec.name and any(_touch(dep, made) for dep in spec.deps for made in other.made):
            yield name


def within(path: str, place: str) -> bool:
    """Whether a path is that of a place, or of what lies in it."""
    return PurePosixPath(path).is_relative_to(place)


def _touch(one: str, other: str) -> bool:
    return within(one, other) or within(other, one)


def _reading(spec: StageSpec, made: Sequence[str]) -> StageSpec:
    """The stage with its inputs. What a directory holds besides the outputs of stages, another run left there."""
    inside = {dep: [path for path in made if PurePosixPath(dep) in PurePosixPath(path).parents] for dep in spec.deps}
    return replace(spec, inputs=tuple(path for dep in spec.deps for path in inside[dep] or [dep]))


def _ordered(upstream: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Names so that each comes after those it waits for, otherwise in the order of the file."""
    waiting = dict(upstream)
    while waiting:
        ready = next((name for name, needs in waiting.items() if not any(need in waiting for need in needs)), None)
        if ready is None:
            raise ConfigError(f"dvc.yaml: these stages wait for each other: {', '.join(waiting)}")
        del waiting[ready]
        yield ready
