"""The command line `rlhf`: one small module a group of commands; what a command needs is imported when it runs."""

import typer

from rlhf.cli import chat, compare, deploy, doctor, init, judge, label, models, run, scrub, services, status
from rlhf.cli.console import Commands, prepare

app = typer.Typer(
    cls=Commands,
    help="From human feedback to a better policy, and proof that it is better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=prepare,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (run, compare, init, status, models, chat, services, deploy, doctor, scrub):
    for command in module.COMMANDS:
        app.command()(command)
for group in (label.group, judge.group):
    app.add_typer(group)
