"""`rlhf compare`: the algorithms side by side, each trained several times."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rlhf.cli.console import WorkspaceOption, find_workspace, out
from rlhf.cli.run import leave, prefect_server
from rlhf.errors import ConfigError
from rlhf.text import title

if TYPE_CHECKING:
    from rlhf.report.comparison import Comparison, Spread


def compare(
    algorithms: Annotated[
        list[str] | None,
        typer.Option(
            "--algorithm",
            "-a",
            help="One to compare; may be given more than once. Without it: all. One that lacks its data, thumbs of "
            "both kinds, beliefs or two groups of people, is left out.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings of each, which differ in `align.seed` alone: 0, 1, ...")
    ] = 3,
    snapshots: Annotated[
        int,
        typer.Option(min=2, help="Policies kept on the way of each training, for the frontier (`align.snapshots`)."),
    ] = 4,
    noise_steps: Annotated[
        int, typer.Option(min=2, help="Gradients before each training, to measure their noise (`align.noise_steps`).")
    ] = 8,
    workspace: WorkspaceOption = None,
) -> None:
    """Train every algorithm several times from one SFT and one reward model, and write reports/compare.html.

    Nothing is promoted, params.yaml stays as it is, and what has been compared before is not trained again.

    Each policy is a look at the gate's test set, and each look raises what later policies must show there.
    """
    from typing import get_args

    from rlhf.cli.live import reporter
    from rlhf.config import load_config
    from rlhf.config.algorithms import Algorithm
    from rlhf.report.comparison import PAGE

    directory, known = find_workspace(workspace), get_args(Algorithm)
    asked = list(dict.fromkeys(algorithms or known))
    for name in asked:
        if name not in known:
            raise ConfigError(f"`--algorithm {shlex.quote(name)}`: there is none. They are: {', '.join(known)}")
    gate = load_config(directory / "params.yaml").gate
    out.print(
        f"This looks up to {len(asked) * seeds} times at the gate's test set; `gate.{gate.profile}.max_uses` allows "
        f"{gate.limits.max_uses}",
        soft_wrap=True,
    )
    prefect_server(directory, out)
    from flows import compare as flow  # not before its server is known

    with reporter(out) as shown:
        result, table = flow.run(
            directory,
            asked,
            range(seeds),
            snapshots=snapshots,
            noise_steps=noise_steps,
            reporter=shown,
        )
    leave(result)
    assert table is not None  # the run did not fail
    out.print(render(table))
    for name, why in table.left_out.items():
        out.print(Text(f"{title(name)} is left out: {why}"), soft_wrap=True)
    out.print(Text(f"\nEvery figure, and the frontier: {directory / PAGE}"), soft_wrap=True)


def render(comparison: "Comparison") -> Table:
    """The table: mean and range over the trainings of each algorithm; of the win rate, its interval."""
    table = Table(
        title="\nAgainst SFT: mean and range; of the win rate, its interval",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    table.add_column("algorithm", no_wrap=True)
    at = f"gold at\nKL {comparison.equal_kl:.2g}"
    for name in ("win\nrate, %", "reward\ngain", "gold\ngain", "KL,\nnats", at):
        table.add_column(name, justify="right")
    for line in comparison.lines:
        rate = line.win_rate
        gains = [_spread(gain) for gain in (line.proxy_gain, line.gold_gain, line.kl, line.gold_at_equal_kl)]
        shown = _cell(100 * rate.value, 100 * rate.low, 100 * rate.high, 1)
        table.add_row(title(line.algorithm), shown, *gains)
    return table


def _spread(figure: "Spread | None") -> Text:
    return _cell(figure.mean, figure.low, figure.high, 2) if figure else Text("-")


def _cell(value: float, low: float, high: float, digits: int) -> Text:
    return Text.assemble(f"{value:.{digits}f}\n", (f"{low:.{digits}f}–{high:.{digits}f}", "dim"))


COMMANDS = (compare,)
