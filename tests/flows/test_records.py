"""What a run leaves behind: the gate's decision as Prefect shows it, its sender, what a promotion said."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from markdown_it import MarkdownIt

from flows.records import gate_report, promote_apart, sending
from rlhf.errors import Exit
from rlhf.locks import hold
from rlhf.text import markdown
from tests.report.conftest import made_decision
from tests.test_text import HOSTILE, SHOWN


def test_the_artifact_is_the_sentence_and_what_does_not_pass() -> None:
    decision = made_decision()
    said = gate_report(decision)
    assert said.startswith(f"# PROMOTE\n\n{markdown(decision.sentence)}\n")
    assert "Checks passed: integrity 11/11, sanity 8/8, judge 4/4, quality 5/6," in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ") and "not passed" not in line]
    missed = [check.name for candidate in decision.candidates for check in candidate.checks if not check.passed]
    assert [row[0].removeprefix("| ") for row in rows] == [markdown(name) for name in missed]
    assert rows[0][1:5] == ["0.511", "0.462 to 0.561", "0.5", "400"]


def test_what_data_wrote_stays_text_in_its_cell() -> None:
    decision = made_decision()
    ppo, dpo = decision.candidates
    ppo = replace(ppo, checks=(replace(ppo.checks[0], outcome="fail", reason=HOSTILE), *ppo.checks[1:]))
    hostile = replace(decision, sentence=HOSTILE, candidates=(ppo, dpo))
    found = MarkdownIt("commonmark").enable("table").render(gate_report(hostile))
    assert set(re.findall(r"</?(\w+)", found)) == {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert (found.count(f"<td>{SHOWN}</td>"), found.count(f"<p>{SHOWN}</p>")) == (1, 1)


def test_a_sender_that_is_slow_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one waits up to a minute for another that sends."""
    monkeypatch.setattr("flows.records.PATIENCE", 0.2)
    with hold(tmp_path / ".rlhf/sender.lock", "The connection to MLflow"), sending(tmp_path) as sender:
        sender.finish()
    assert not sender.synced
    assert sender.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('it is the champion'); print('a warning', file=sys.stderr)", (Exit.DONE, "it is the champion")),
        ("print('refused'); sys.exit(12)", (Exit.GATE_REFUSED, "refused")),
        ("{}['a warning']", (Exit.FAILED, "The program that promotes ended with exit code 1. See {log}")),
    ],
)
def test_what_a_promotion_says_and_what_else_it_prints_are_kept_apart(
    program: str, found: tuple[Exit, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(
        command: list[str], workspace: Path, *, stdin: None, output: int, errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", f"import sys; {program}"], stdout=output, stderr=errors)

    monkeypatch.setattr("flows.records._module", other)
    log = tmp_path / ".rlhf/logs/promote.log"
    assert promote_apart(tmp_path) == (found[0], found[1].format(log=log))
    assert ("a warning" in log.read_text()) == ("a warning" in program)
