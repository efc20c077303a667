"""Shows a run while it goes on: bars with the time left on a terminal, plain lines anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from flows.results import Reporter

MARKS = {  # of the states of a stage
    "ran": ("✓", "green"),
    "restored": ("↺", "cyan"),
    "cached": ("·", "dim"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "yellow"),
    "stopped": ("-", "yellow"),
}
EVERY = 30.0  # seconds between two lines on the progress of a stage where there is no terminal
NAME = 21  # columns of the longest name of a stage


@contextmanager
def reporter(console: Console) -> Iterator["Reporter"]:
    """The reporter that fits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn(f"{{task.description:{NAME}}}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}", justify="right"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[label]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


class Bars:
    """A bar for each stage that runs, and above them a line for each that has finished."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._labels: dict[str, str] = {}

    def stage_started(self, name: str) -> None:
        """Show the stage at work; how much there is to do is not known yet."""
        if name in self._tasks:  # it is tried again
            self._progress.remove_task(self._tasks[name])
        self._labels.pop(name, None)
        self._tasks[name] = self._progress.add_task(name, total=None, count="", label="", left="")

    def progress(self, name: str, done: int, total: int, label: str) -> None:
        """Move the bar of the stage; a new label is a new piece of work with a time of its own."""
        task, count = self._tasks[name], f"{done:,}/{total:,}"
        if self._labels.get(name) != label:
            self._labels[name] = label
            self._progress.reset(task, completed=done, count=count, label=label, left="left")
        self._progress.update(task, completed=done, total=total, count=count)

    def stage_finished(self, name: str, state: str, summary: str, seconds: float) -> None:
        """Put the stage's line in the place of its bar."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)
        self._progress.console.print(finished_line(name, state, summary, seconds), soft_wrap=True)

    def message(self, text: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(Text(text, style="yellow"), soft_wrap=True)


class Lines:
    """One line when a stage begins, one when it ends, and few between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: dict[str, dict[str, tuple[float, int]]] = {}  # of each stage and label: when, how far
        self._told: dict[str, float] = {}
        self._lock = Lock()

    def stage_started(self, name: str) -> None:
        """See flows.results.Reporter."""
        self._told[name], self._first[name] = time.monotonic(), {}
        self._print(Text(f"  {name:{NAME}} started"))

    def progress(self, name: str, done: int, total: int, label: str) -> None:
        """See flows.results.Reporter."""
        now = time.monotonic()
        began, before = self._first[name].setdefault(label, (now, done))  # a stage may go on from a checkpoint
        if done < before:  # and go back to one
            began, before = self._first[name][label] = now, done
        if now - self._told[name] < EVERY or done == before:
            return
        self._told[name] = now
        left = (now - began) * (total - done) / (done - before)
        self._print(Text(f"  {name:{NAME}} {done:,} of {total:,} {label}".rstrip() + f", about {left:.0f} s left"))

    def stage_finished(self, name: str, state: str, summary: str, seconds: float) -> None:
        """See flows.results.Reporter."""
        self._print(finished_line(name, state, summary, seconds))

    def message(self, text: str) -> None:
        """See flows.results.Reporter."""
        self._print(Text(text))

    def _print(self, text: Text) -> None:
        with self._lock:
            self._console.print(text, soft_wrap=True)


def finished_line(name: str, state: str, summary: str, seconds: float) -> Text:
    """One line on a stage that ended: its state, name, time, and what it made."""
    mark, style = MARKS[state]
    took = f"{seconds:6.1f} s" if state in ("ran", "restored", "failed") else " " * 8
    return Text.assemble(
        (f"{mark} ", style), f"{name:{NAME}} ", (took, "dim"), "  ", (summary, style if state == "failed" else "")
    )
