"""What a run leaves behind: the sender that brings all journals to MLflow, promotion, the gate's report in Prefect."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlhf.errors import Exit
from rlhf.gate.ledger import Ledger, rolled_back
from rlhf.gate.records import Check, Decision
from rlhf.logs import log_file
from rlhf.pipeline.fingerprint import packages
from rlhf.text import markdown
from rlhf.tracking.standing import Standing, count_looks, keep

PATIENCE = 120.0  # seconds that the sender may take after the last stage


@dataclass
class Sender:
    """The sender at work, and after it has ended whether MLflow has everything."""

    process: subprocess.Popen[bytes]
    exit: int | None = None

    @property
    def synced(self) -> bool:
        """Whether the sender ended well."""
        return self.exit == Exit.DONE

    def finish(self) -> None:
        """Let the sender do its last pass and wait for it."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.exit = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.exit = Exit.SERVICE


@contextmanager
def sending(workspace: Path) -> Iterator[Sender]:
    """Run `python -m rlhf.tracking.sender --follow` beside the body. A run does not depend on it."""
    with open(log_file(workspace, "sender"), "ab") as log:
        command = ["rlhf.tracking.sender", str(workspace), "--follow"]
        sender = Sender(_module(command, workspace, stdin=subprocess.PIPE, output=log))
    try:
        yield sender
    finally:
        if sender.process.poll() is None:
            sender.process.kill()  # what it has not sent stays in the journals
        sender.process.wait()


def promote_apart(workspace: Path, approver: str = "", decision: str | None = None) -> tuple[Exit, str]:
    """Promote the gate's winner in a process of its own, which may import MLflow; return its exit code and its line.

    `decision` is the digest of the one that `approver` has just approved; None: nobody was asked.
    """
    approved = [] if decision is None else [f"--approved={decision}"]
    command = ["flows.promoting", str(workspace), f"--approver={approver}", *approved]
    file = log_file(workspace, "promote")
    with open(file, "ab") as log:
        process = _module(command, workspace, stdin=None, output=subprocess.PIPE, errors=log)
        said = process.communicate()[0].decode("utf-8", "replace").strip().splitlines()
    code = process.returncode
    line = said[-1] if said else f"The program that promotes ended with exit code {code}. See {file}"
    return Exit(code) if code in set(Exit) else Exit.FAILED, line


def settled(workspace: Path, decision: Standing) -> bool:
    """Whether its winner is in use, or was rolled back: only a person brings back what was taken out of use."""
    history = Ledger.of(workspace).history()
    return decision.said.policy in rolled_back(history) | {champion.policy for champion in history[-1:]}


def record(workspace: Path, decision: Standing) -> None:
    """Keep a decision for good, and count it as one more look at its test set."""
    keep(workspace, decision)
    count_looks(workspace, decision)


def gate_report(decision: Decision) -> str:
    """The gate's decision as Markdown: the sentence, and of each candidate how many checks of each group pass, and a
    table of those that do not."""
    lines = [f"# {decision.decision}", "", markdown(decision.sentence), ""]
    for candidate in decision.candidates:
        counts = (f"{name} {sum(c.passed for c in checks)}/{len(checks)}" for name, checks in candidate.groups.items())
        lines += [f"## {markdown(candidate.algorithm)}: {candidate.decision}", ""]
        lines += [f"Checks passed: {', '.join(counts)}.", ""]
        if missed := [check for check in candidate.checks if not check.passed]:
            lines += ["| not passed | value | interval | limit | n | |", "|-|-|-|-|-|-|", *map(_row, missed), ""]
    return "\n".join([*lines, "Every check, and the answers behind them, are in `reports/gate.html`.", ""])


def _row(check: Check) -> str:
    """A check as a row of a Markdown table."""
    interval = "" if check.low is None else f"{_number(check.low)} to {_number(check.high)}"
    cells = [check.name, _number(check.value), interval, _number(check.threshold), _number(check.n), check.reason]
    return f"| {' | '.join(map(markdown, cells))} |"


def _module(
    command: list[str],
    workspace: Path,
    stdin: int | None,
    output: int | IO[bytes],
    errors: int | IO[bytes] = subprocess.STDOUT,
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env={**os.environ, **packages()},
        stdin=stdin or subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        umask=0o077,  # the store that it makes is this user's alone
        start_new_session=True,  # Ctrl-C is for the run, which then ends this one in order
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
