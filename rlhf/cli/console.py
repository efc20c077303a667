"""What every command shares: the two consoles, the workspace option, JSON, and how an error ends the program."""

import errno
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from rlhf import telemetry
from rlhf.errors import ConfigError, DiskFull, UserError

out = Console(highlight=False, markup=False, emoji=False)  # what models and people wrote is shown as it is
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

UNUSABLE = (  # of a path
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
INTERRUPTED = 130  # as a shell says of a program that Ctrl-C ended

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-C",
        metavar="DIR",
        help="The workspace. Without it: this directory, or the nearest one above that is a workspace.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


class Commands(TyperGroup):
    """The group of all commands: a user's mistake ends it with one message and a typed exit code."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line, and print the help where it asks for it."""
        with _ending():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with _ending():
            return super().invoke(ctx)


@contextmanager
def _ending() -> Iterator[None]:
    """Turn a user's mistake into its message and exit code."""
    try:
        yield
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        err.print("Interrupted.", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        if (mistake := _mistake_behind(error)) is None:
            raise
        fail(mistake)


def fail(error: UserError) -> None:
    """Show an error on standard error and leave with its exit code."""
    err.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
    raise typer.Exit(int(error.exit))


def _mistake_behind(error: OSError) -> UserError | None:
    """What a user can do about an error of the system; None where it is a fault of the program."""
    if error.errno in UNUSABLE and isinstance(error.filename, str):
        return ConfigError(f"{error.filename}: {str(error.strerror).lower()}. Put this right, or name another path")
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return ConfigError("this directory has been removed. Go to another one")
    full = DiskFull.behind(error, here)
    if full and _output_is_refused():
        return DiskFull(
            f"cannot write to standard output: {str(error.strerror).lower()}. Send it elsewhere, or make room"
        )
    return full


def _output_is_refused() -> bool:
    """Whether standard output does not even take a line break."""
    try:
        out.print()
    except OSError:
        return True
    return False


def find_workspace(given: Path | None) -> Path:
    """The workspace that was named, or the nearest one from here upward. Raises ConfigError when there is none, or one
    that is not whole."""
    from rlhf.pipeline.readable import require_workspace

    start = Path(os.path.realpath(given or Path.cwd()))
    for directory in [start] if given else [start, *start.parents]:
        lacking = [name for name in ("dvc.yaml", "params.yaml") if not os.path.lexists(directory / name)]
        if not lacking:
            require_address(directory)
            require_workspace(directory)
            return directory
        if any(os.path.lexists(directory / name) for name in (".dvc", ".rlhf")):
            raise ConfigError(
                f"{directory} lacks {' and '.join(lacking)}. Bring back what was there; where `rlhf init` did not come "
                f"to its end, run it again: rlhf init {shlex.quote(str(directory))}"
            )
    raise ConfigError(
        f"{start} is not a workspace: it holds no dvc.yaml and params.yaml. Go to one, name one with -C DIR, "
        "or make one: rlhf init DIR"
    )


def require_address(directory: Path) -> None:
    """Raises ConfigError for a path that the address of a database, MLflow's or Prefect's, cannot hold."""
    if re.search(r"[?\ud800-\udfff]", str(directory)):  # what is no UTF-8 Python reads as surrogates
        raise ConfigError(
            f"{directory} holds a `?`, or bytes that are not UTF-8: MLflow and Prefect would put their databases "
            "elsewhere. Rename the directory"
        )


def print_json(value: Any) -> None:
    """Print a value for a script."""
    out.file.write(json.dumps(value, indent=1) + "\n")
    out.file.flush()


def prepare() -> None:
    """What comes before every command."""
    _quiet_libraries()
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "namereplace")):
        if isinstance(stream, TextIOWrapper):  # what its encoding does not have ends no program
            stream.reconfigure(errors=errors)


def _quiet_libraries() -> None:
    """Keep the libraries that commands load from talking, calling home, waiting long. What the user has set stays."""
    for name, value in {
        **telemetry.OFF,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PREFECT_API_REQUEST_TIMEOUT": "5",  # seconds; by itself 60, and six times: a silent server would cost minutes
        "PREFECT_CLIENT_MAX_RETRIES": "1",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # not pickle, which runs what it reads
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
