"""`rlhf compare`: the algorithms side by side, each trained several times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, find_workspace, out
from rlhf.cli.run import leave, prefect_server
from rlhf.report.text import title

if TYPE_CHECKING:
    from flows.results import RunResult
    from rlhf.report.comparison import Line, Spread


def compare(
    algorithms: Annotated[
        list[str] | None,
        typer.Option(
            "--algorithm",
            "-a",
            help="One to compare; may be given more than once. Without it: all.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings of each, which differ in `align.seed` alone: 0, 1, ...")
    ] = 3,
    workspace: WorkspaceOption = None,
) -> None:
    """Train every algorithm several times from one SFT and one reward model, and write reports/compare.html.

    Nothing is promoted, params.yaml stays as it is, and what has been trained before is not trained again.
    """
    from typing import get_args

    from rlhf.config.algorithms import Algorithm
    from rlhf.report.comparison import PAGE

    directory = find_workspace(workspace)
    prefect_server(directory, out)
    result, lines = _run(directory, algorithms or get_args(Algorithm), range(seeds))
    leave(result)
    out.print(render(lines))
    out.print(Text(f"\nEvery figure, and the frontier: {directory / PAGE}"), soft_wrap=True)


def _run(directory: Path, algorithms: Sequence[str], seeds: Sequence[int]) -> "tuple[RunResult, list[Line]]":
    from flows import compare as flow  # not before its server is known
    from rlhf.cli.live import reporter

    with reporter(out) as shown:
        return flow.run(directory, algorithms, seeds, reporter=shown)


def render(lines: "list[Line]") -> Table:
    """The table: mean and range over the trainings of each algorithm."""
    table = Table(
        title="\nAgainst SFT: mean and range", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("algorithm", no_wrap=True)
    for name in ("win rate, %", "reward gain", "gold gain", "KL (nats)", "tokens"):
        table.add_column(name, justify="right")
    for line in lines:
        gains = [_spread(gain, 2) for gain in (line.proxy_gain, line.gold_gain, line.kl)]
        table.add_row(title(line.algorithm), _spread(line.win_rate, 1, 100), *gains, _spread(line.length, 1))
    return table


def _spread(figure: "Spread | None", digits: int, unit: float = 1.0) -> Text:
    if figure is None:
        return Text("-")
    mean, low, high = (f"{unit * value:.{digits}f}" for value in (figure.mean, figure.low, figure.high))
    return Text.assemble(f"{mean}\n", (f"{low}–{high}", "dim"))


COMMANDS = (compare,)
