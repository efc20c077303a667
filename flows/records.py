"""What a run leaves behind: the sender that brings all journals to MLflow, promotion, the gate's report in Prefect."""

import hashlib
import html
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlhf.errors import Exit
from rlhf.gate.ledger import Ledger
from rlhf.pipeline.fingerprint import ROOT
from rlhf.report.text import visible

DECISION = "reports/gate/decision.json"
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
        if sender.exit is None and sender.process.poll() is None:
            sender.process.kill()
        sender.process.wait()


def promote_apart(workspace: Path, generation: int | None = None, approver: str = "") -> tuple[Exit, str]:
    """Promote the gate's winner in a process of its own, which may import MLflow; return its exit code and its line.

    `generation` is that of the champion when the decision was looked at; None: whatever it is now.
    """
    expected = [] if generation is None else ["--generation", str(generation)]
    command = ["flows.promoting", str(workspace), *expected, f"--approver={approver}"]
    process = _module(command, workspace, stdin=None, output=subprocess.PIPE)
    said = process.communicate()[0].decode("utf-8", "replace").strip().splitlines()
    code = process.returncode
    return Exit(code) if code in set(Exit) else Exit.FAILED, said[-1] if said else f"it ended with exit code {code}"


def read_decision(workspace: Path) -> dict[str, Any] | None:
    """The gate's decision; None when there is no gate or it has not decided."""
    file = workspace / DECISION
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def acted_on(workspace: Path) -> bool:
    """Whether the ledger holds a promotion by this very decision: after a rollback it must not come back by itself."""
    digest = hashlib.sha256((workspace / DECISION).read_bytes()).hexdigest()
    return any(entry.report_digest == digest for entry in Ledger(workspace / ".rlhf" / "ledger.db").history())


def gate_report(decision: dict[str, Any]) -> str:
    """The gate's decision as Markdown: the sentence, and of each candidate how many checks of each group pass, and a
    table of those that do not."""
    lines = [f"# {decision['decision']}", "", decision["sentence"], ""]
    for name, candidate in decision["candidates"].items():
        groups: dict[str, list[bool]] = {}
        for check in candidate["checks"]:
            groups.setdefault(check["group"], []).append(check["passed"])
        counts = (f"{group} {sum(passed)}/{len(passed)}" for group, passed in groups.items())
        lines += [f"## {name}: {candidate['decision']}", "", f"Checks passed: {', '.join(counts)}.", ""]
        if missed := [check for check in candidate["checks"] if not check["passed"]]:
            lines += ["| not passed | value | interval | limit | n | |", "|-|-|-|-|-|-|", *map(_row, missed), ""]
    return "\n".join([*lines, "Every check, and the answers behind them, are in `reports/gate.html`.", ""])


def _row(check: dict[str, Any]) -> str:
    """A check as a row of a Markdown table, which nothing that data wrote can break or turn into HTML."""
    interval = f"{_number(check['low'])} to {_number(check['high'])}" if check["low"] is not None else ""
    cells = [check["name"], _number(check["value"]), interval, _number(check["threshold"]), _number(check["n"])]
    said = html.escape(visible(" ".join((check["reason"] or "").split())), quote=False).replace("|", "\\|")
    return f"| {' | '.join([*cells, said])} |"


def log_file(workspace: Path, name: str) -> Path:
    """Where the output of a process of the run goes."""
    file = workspace / ".rlhf" / "logs" / f"{name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _module(
    command: list[str], workspace: Path, stdin: int | None, output: int | IO[bytes]
) -> "subprocess.Popen[bytes]":
    packages = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": packages, "PYTHONSAFEPATH": "1"},
        stdin=stdin or subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the run, which then ends this one in order
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value or "")
