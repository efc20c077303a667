"""`rlhf init`: a new workspace from an example."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rlhf.cli.console import out
from rlhf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

DEFAULT = "small-world"
LOCAL = "local"  # section of an example: what is laid over it when --data is given


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.", show_default=False)],
    example: Annotated[str, typer.Option(metavar="NAME", help="small-world, hh-harmless, oasst.")] = DEFAULT,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Read the data from this directory, not from a hub.", show_default=False),
    ] = None,
) -> None:
    """Make a workspace: dvc.yaml, params.yaml, a git and a DVC repository."""
    import shutil

    from rlhf.cli.params import write_params
    from rlhf.pipeline.versioning import init_workspace

    directory = directory.resolve()
    present = [name for name in ("dvc.yaml", "params.yaml") if (directory / name).exists()]
    if present:
        raise ConfigError(f"{directory} holds {' and '.join(present)} already. Name another directory")
    params = example_params(example, data)
    init_workspace(directory)
    shutil.copyfile(template() / "dvc.yaml", directory / "dvc.yaml")
    write_params(directory / "params.yaml", params)
    out.print(Text(f"{directory} is a workspace ({example}). Next: cd {directory} && rlhf run"), soft_wrap=True)


def template() -> Path:
    """The directory of the default dvc.yaml and params.yaml: in an installed package, or the root of a checkout."""
    import rlhf

    package = Path(rlhf.__file__).resolve().parent
    installed = package / "examples" / DEFAULT
    return installed if installed.is_dir() else package.parent


def examples() -> dict[str, Path | None]:
    """Names of the examples and the file of each; None for the default."""
    import rlhf

    files = sorted((Path(rlhf.__file__).resolve().parent / "examples").glob("*.yaml"))
    return {DEFAULT: None, **{file.stem: file for file in files}}


def example_params(name: str, data: Path | None) -> "CommentedMap":
    """params.yaml of an example, with its comments. Raises ConfigError for an unknown name, DataError for no data."""
    from difflib import get_close_matches

    from rlhf.cli.params import overlay, read_document

    known = examples()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        raise ConfigError(f"there is no example `{name}`; {hint}")
    document = read_document(template() / "params.yaml")
    file = known[name]
    local = None
    if file:
        changes = read_document(file)
        local = changes.pop(LOCAL, None)
        overlay(document, changes)
    if data is not None:
        if local is None:
            raise ConfigError(f"the example `{name}` reads no data, so --data means nothing to it. Leave it out")
        _below(local, data.resolve())
        overlay(document, local)
    return document


def _below(value: Any, data: Path) -> None:
    """Turn every relative `path` into one below the directory of the data. Raises DataError when it is not there."""
    if isinstance(value, list):
        for entry in value:
            _below(entry, data)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key == "path":
                value[key] = str(data / entry)
                if not (data / entry).exists():
                    raise DataError(f"{data / entry} does not exist. --data names the directory that holds {entry}")
            else:
                _below(entry, data)


COMMANDS = (init,)
