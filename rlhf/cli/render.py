"""What stands at the end of a run: the table, the gate's decision and what matters to it, answers side by side."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rlhf.gate.records import Candidate, Check, Interval, WinRate
from rlhf.report.examples import Example
from rlhf.report.summary import Row, Summary
from rlhf.text import printable, title

SIDE_BY_SIDE = 3  # candidates whose checks fit beside each other
WIN_RATES = ("better_than_sft", "better_than_champion")  # shown even where they pass
VERDICTS = {"PROMOTE": "bold green", "REJECT": "bold red", "INCONCLUSIVE": "bold yellow", "ERROR": "bold red"}
OUTCOMES = {
    "pass": ("✓", "green"),
    "fail": ("✗", "red"),
    "undecided": ("?", "yellow"),
    "unmeasured": ("-", "dim"),
    "error": ("!", "bold red"),
}


def render_summary(summary: Summary) -> RenderableType:
    """Everything that the end of a run shows."""
    return Group(*_parts(summary))


def _parts(summary: Summary) -> Iterator[RenderableType]:
    if summary.rows:
        yield _models(summary.rows)
    decision = summary.decision
    if decision.candidates:
        few = len(decision.candidates) <= SIDE_BY_SIDE
        yield (_checks if few else _candidates)(decision.candidates)
    verdict = Text.assemble(
        ("Gate: ", "bold"), (decision.decision, VERDICTS[decision.decision]), f"  {decision.sentence}"
    )
    yield Padding(verdict, (0, 1, 1, 1))
    if summary.examples:
        yield _examples(summary.examples)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=True)


def _models(rows: tuple[Row, ...]) -> Table:
    table = _table("\nAgainst SFT, on test prompts")
    table.add_column("model", no_wrap=True)
    for name in ("win rate", "interval", "proxy reward", "gold reward", "KL (nats)", "tokens"):
        table.add_column(name, justify="right")
    for row in rows:
        rate, interval = _win_rate(row.win_rate)
        numbers = [_number(row.proxy_reward, 3), _number(row.gold_reward, 3), _kl(row.kl), _number(row.length, 1)]
        table.add_row(title(row.model), rate, interval, *numbers)
    return table


def _checks(candidates: tuple[Candidate, ...]) -> Table:
    """A row for each group, with how many of its checks pass, and below it those that some candidate does not pass, and
    the win rates."""
    table = _table("The gate; every check is in reports/gate.html")
    table.add_column("check", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    for candidate in candidates:
        head = Text.assemble(f"{title(candidate.algorithm)}  ", (candidate.decision, VERDICTS[candidate.decision]))
        table.add_column(head)
    groups = [candidate.groups for candidate in candidates]
    for group in dict.fromkeys(group for found in groups for group in found):
        members = [found.get(group, []) for found in groups]
        table.add_row(group, "", *(_passed(checks) for checks in members))
        for name in dict.fromkeys(check.name for checks in members for check in checks):
            row = [next((check for check in checks if check.name == name), None) for checks in members]
            if name in WIN_RATES or not all(check and check.passed for check in row):
                limit = next((_limit(check) for check in row if check), "")
                table.add_row(f"  {name}", limit, *(_outcome(check) if check else "" for check in row))
    return table


def _passed(checks: Sequence[Check]) -> Text:
    """How many of a group's checks pass."""
    passed = sum(check.passed for check in checks)
    style = "bold red" if any(check.stops for check in checks) else "green" if passed == len(checks) else "yellow"
    return Text(f"{passed}/{len(checks)}", style)


def _candidates(candidates: tuple[Candidate, ...]) -> Table:
    """A row for each candidate, with the checks that it did not pass."""
    table = _table("The gate; every check of each is in reports/gate.html")
    for name in ("policy", "decision", "passed", "not passed"):
        table.add_column(name, no_wrap=name != "not passed")
    for candidate in candidates:
        failed = [check for check in candidate.checks if not check.passed]
        said = (Text.assemble(f"{check.name} ", _limit(check), " ", _outcome(check)) for check in failed)
        verdict = Text(candidate.decision, VERDICTS[candidate.decision])
        passed = f"{len(candidate.checks) - len(failed)} of {len(candidate.checks)}"
        table.add_row(title(candidate.algorithm), verdict, passed, Text("\n").join(said))
    return table


def _outcome(check: Check) -> Text:
    """What a check found; in words where there is no number to show for it."""
    mark, style = OUTCOMES[check.outcome]
    if check.outcome == "unmeasured" and not check.stops:
        return Text(f"{mark} not measured", style)
    interval = "" if check.low is None else f" ({_short(check.low)} to {_short(check.high)})"
    said = f"{_short(check.value)}{interval}" if check.value is not None else "" if check.passed else check.reason
    if check.passed or check.stops:
        return Text.assemble((f"{mark} ", style), said)
    return Text.assemble((f"{mark} ", "yellow"), said, (" warning", "dim"))


def _examples(examples: tuple[Example, ...]) -> Table:
    policy = title(examples[0].ours.model)
    table = Table(title=f"The same prompts, answered by SFT and by {policy}", title_justify="left", title_style="bold")
    table.show_lines = True
    for name in ("prompt", "SFT", policy):
        table.add_column(name, ratio=1, overflow="fold")
    for example in examples:
        table.add_row(_conversation(example), _said(example.theirs.text), _said(example.ours.text))
    return table


def _conversation(example: Example) -> Text:
    """The prompt; who speaks is said only where it is more than one question."""
    if len(example.prompt) == 1:
        return _said(example.prompt[0][1])
    return Text("\n").join(Text.assemble((f"{role}: ", "dim"), _said(content)) for role, content in example.prompt)


def _said(text: str) -> Text:
    return Text(printable(text)) if text else Text("(empty)", "dim")


def _win_rate(rate: WinRate | None) -> tuple[str, str]:
    return ("", "") if rate is None else (f"{rate.value:.3f}", f"{rate.low:.3f} to {rate.high:.3f}")


def _kl(kl: Interval | None) -> str:
    return _number(kl.value if kl else None, 2)


def _limit(check: Check) -> str:
    return "" if check.threshold is None else f"{'≥' if check.at_least else '≤'} {_short(check.threshold)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
