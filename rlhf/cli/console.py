"""What every command shares: the two consoles, the workspace option, JSON, and how an error ends the program."""

import json
import os
import sys
import warnings
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

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(error)
        except KeyboardInterrupt:
            err.print("Interrupted.", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            fail(ConfigError(f"{error.filename}: {str(error.strerror).lower()}. Name another path"))
        except OSError as error:
            if (full := DiskFull.behind(error, Path.cwd())) is None:
                raise
            fail(full)


def fail(error: UserError) -> None:
    """Show an error on standard error and leave with its exit code."""
    err.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
    raise typer.Exit(int(error.exit))


def find_workspace(given: Path | None) -> Path:
    """The workspace that was named, or the nearest one from here upward. Raises ConfigError when there is none."""
    start = (given or Path.cwd()).resolve()
    for directory in [start] if given else [start, *start.parents]:
        if (directory / "dvc.yaml").is_file() and (directory / "params.yaml").is_file():
            return directory
    raise ConfigError(
        f"{start} is not a workspace: it holds no dvc.yaml and params.yaml. Go to one, name one with -C DIR, "
        "or make one: rlhf init DIR"
    )


def print_json(value: Any) -> None:
    """Print a value for a script."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def quiet_libraries() -> None:
    """Keep the libraries that commands load from talking and from calling home. What the user has set stays."""
    for name, value in {
        **telemetry.OFF,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # not pickle, which runs what it reads
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
