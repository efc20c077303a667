"""The command line explains itself, and loads nothing heavy to do so."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

COMMANDS = {
    "run": ("--set", "-S", "--no-promote", "--json", "--workspace", "-C"),
    "init": ("DIR", "--example", "--data"),
    "compare": ("--algorithm", "-a", "--seeds", "--snapshots", "--noise-steps", "-C"),
    "status": ("--json", "-C"),
    "lineage": ("MODEL", "--json"),
    "promote": ("--approver", "--json"),
    "approve": ("--key", "--approver", "--comment"),
    "rollback": ("--approver", "--generation"),
    "judge": ("export", "import"),
    "chat": ("MODEL", "--prompt", "--temperature"),
    "up": ("--prefect-port", "--mlflow-port"),
    "down": ("-C",),
    "deploy": ("--activate",),
    "sync": ("-C",),
    "doctor": ("--json",),
    "scrub": ("--check", "--json", "-C"),
}
HEAVY = ("torch", "transformers", "mlflow", "prefect", "dvc", "pandas", "pandera", "matplotlib", "pydantic", "numpy")


def test_the_list_of_commands_is_whole(rlhf: Callable[..., Result]) -> None:
    said = rlhf("--help").output
    assert all(f"│ {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_its_options(rlhf: Callable[..., Result], name: str) -> None:
    result = rlhf(name, "--help")
    assert result.exit_code == 0
    assert [option for option in COMMANDS[name] if option.lower() not in result.output.lower()] == []


def test_help_imports_nothing_heavy() -> None:
    program = f"import rlhf.cli, sys; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "rlhf.cli.console":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from rlhf.__main__ import main
main()
"""


def test_ctrl_c_while_it_is_imported_is_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_unknown_command_is_a_fault_of_the_command_line(rlhf: Callable[..., Result]) -> None:
    result = rlhf("rnu")
    assert result.exit_code == 2
    assert "rnu" in result.output
