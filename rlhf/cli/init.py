"""`rlhf init`: a new workspace from an example."""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rlhf.cli.console import out, require_address
from rlhf.errors import ConfigError, DataError, suggestion

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

DEFAULT = "small-world"
DATA = "{data}"  # in an example: the directory that --data names
PACKAGE = Path(__file__).resolve().parent.parent
COLLECT = "    cmd: python -m tasks.collect\n"  # the line of dvc.yaml that deps follow
SOURCES = Path("data", "sources")  # where rows that come with an example go


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.", show_default=False)],
    example: Annotated[str, typer.Option(metavar="NAME", help="small-world, files, hh-harmless, oasst.")] = DEFAULT,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            envvar="RLHF_DATA",
            help="Directory of the data of hh-harmless and oasst, which need it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a workspace: dvc.yaml, params.yaml, a git and a DVC repository.

    small-world simulates its people; files holds rows to be replaced by yours; hh-harmless and oasst are real feedback.
    """
    from rlhf import durable
    from rlhf.pipeline import champion, fingerprint
    from rlhf.pipeline.graph import CODE
    from rlhf.pipeline.versioning import init_workspace
    from rlhf.pipeline.workspace import hold_workspace

    directory = Path(os.path.realpath(directory))
    require_address(directory)
    if os.path.lexists(directory) and not directory.is_dir():
        raise ConfigError(f"{directory} is a file. Name another directory")
    params, graph = make_workspace_files(example, data)
    _require_free(directory, params)
    directory.mkdir(parents=True, exist_ok=True)
    with hold_workspace(directory):
        _require_free(directory, params)  # another may have made it one since
        init_workspace(directory)
        _copy_rows(_examples() / example, directory / SOURCES)
        champion.pin(directory, champion.pinned(directory))
        durable.write_json(directory / CODE, fingerprint.fingerprints(template()))  # `dvc repro` works from the start
        durable.write_text(directory / "params.yaml", params)
        durable.write_text(directory / "dvc.yaml", graph)  # last: it makes the directory a workspace
    text = f"{directory} is a workspace ({example}). Next: cd {shlex.quote(str(directory))} && rlhf run"
    out.print(Text(text), soft_wrap=True)


def template() -> Path:
    """The directory of the default dvc.yaml and params.yaml: in an installed package, or the root of a checkout."""
    installed = _examples() / DEFAULT
    return installed if installed.is_dir() else PACKAGE.parent


def examples() -> list[str]:
    """Names of the examples."""
    return [DEFAULT, *sorted(file.stem for file in _examples().glob("*.yaml"))]


def make_workspace_files(example: str, data: Path | None) -> tuple[str, str]:
    """params.yaml and dvc.yaml of an example, with their comments; collect depends on the files that it reads.

    Raises ConfigError for an unknown name and for data that are not named, DataError when they are not there.
    """
    from rlhf.config.editing import overlay, params_text, read_document

    if example not in examples():
        raise ConfigError(f"there is no example `{example}`; {suggestion(example, examples())}")
    params = read_document(template() / "params.yaml")
    graph = (template() / "dvc.yaml").read_text(encoding="utf-8")
    if example != DEFAULT:
        changes = read_document(_examples() / f"{example}.yaml")
        _put(changes, example, data)
        overlay(params, changes["params"])
        deps = ", ".join(f'"{dep}"' for dep in changes["deps"])
        graph = graph.replace(COLLECT, f"{COLLECT}    deps: [{deps}]\n", 1)
    return params_text(params), graph


def _require_free(directory: Path, params: str) -> None:
    """Raises ConfigError for a workspace, and for a params.yaml that is not the one that an `init` which died left."""
    from rlhf.pipeline.readable import require_workspace

    require_workspace(directory)
    if (directory / "dvc.yaml").exists():
        raise ConfigError(f"{directory} holds dvc.yaml already. Go on there with `rlhf run`, or name another directory")
    file = directory / "params.yaml"
    if file.exists() and file.read_bytes() != params.encode():
        raise ConfigError(f"{directory} holds a params.yaml of its own. Move it away, or name another directory")


def _copy_rows(rows: Path, target: Path) -> None:
    """Copy the rows that come with an example, whole; rows that are there already stay as they are."""
    from rlhf import durable

    if rows.is_dir() and rows != template() and not target.exists():
        target.parent.mkdir(exist_ok=True)
        temporary = durable.partial(target)
        shutil.copytree(rows, temporary, dirs_exist_ok=True)
        durable.publish(temporary, target)


def _examples() -> Path:
    return PACKAGE / "examples"


def _put(changes: "CommentedMap", example: str, data: Path | None) -> None:
    """Put the directory of the data in the place of every `{data}`. Raises ConfigError when it is not named, DataError
    when a file is not there."""
    said = " ".join(str(changes.get("description", "")).split())
    for holder, key in _places(changes):
        if data is None:
            raise ConfigError(f"the example `{example}` reads files: name their directory with --data PATH. {said}")
        path = Path(holder[key].replace(DATA, str(data.resolve())))
        if not path.exists():
            raise DataError(
                f"{path} does not exist. The example `{example}` reads it: name the directory with --data PATH. {said}"
            )
        holder[key] = str(path)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where a `{data}` stands: the mapping or list, and the key or index."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(entry, str) and entry.startswith(DATA):
                yield value, key
            else:
                yield from _places(entry)


COMMANDS = (init,)
