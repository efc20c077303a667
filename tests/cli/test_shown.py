"""What a run shows: bars and lines while it goes on, the table, the decision and the answers at its end."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlhf.cli import app
from rlhf.cli.live import Bars, Lines, finished_line, reporter
from rlhf.cli.render import WIN_RATES, render_summary
from rlhf.gate.checks import NAMES
from rlhf.report.summary import load_summary
from tests.report.conftest import made_workspace


def console(width: int = 160, terminal: bool = False) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=terminal, markup=False, highlight=False, emoji=False)


def text(shown: Console) -> str:
    assert isinstance(shown.file, StringIO)
    return shown.file.getvalue()


def test_lineage_says_whose_judgements_were_left_out() -> None:
    from rlhf.cli.models import _label
    from rlhf.tracking.lineage import Node

    node = Node("data/clean", "validate", key="ab" * 32, params={"validate.revoked": ["mallory", "eve"]})
    assert "without mallory, eve" in str(_label(node, False))
    made = Node("models/sft", "sft", commit="a" * 40, program=f"0.1.0 {'b' * 40}+")
    assert str(_label(made, False)).endswith(f"commit {'a' * 10}  program 0.1.0 {'b' * 10}+")
    assert "program" not in str(_label(replace(made, program=f"0.1.0 {'a' * 40}"), False)), "of the same checkout"
    assert "without" not in str(_label(Node("data/clean", "validate", params={"validate.revoked": []}), False))


def test_the_end_of_a_run_holds_numbers_what_does_not_pass_and_answers(tmp_path: Path) -> None:
    summary = load_summary(made_workspace(tmp_path))
    shown = console(200)
    shown.print(render_summary(summary))
    said = text(shown)
    dpo = next(row for row in summary.rows if row.model == "dpo")
    assert dpo.win_rate
    for number in (f"{dpo.win_rate.value:.3f}", f"{dpo.win_rate.low:.3f} to {dpo.win_rate.high:.3f}", "14.20", "2.310"):
        assert number in said
    assert summary.decision.decision in said
    assert summary.decision.sentence in " ".join(said.split())
    for candidate in summary.decision.candidates:
        assert [check.name for check in candidate.checks if not check.passed and check.name not in said] == []
    for example in summary.examples:
        assert example.theirs.text[:20] in said


def test_what_an_encoding_lacks_is_shown_by_its_name(small_world: Path) -> None:
    workspace, invoke = small_world.rename(small_world.with_name("ü")), CliRunner(charset="ascii").invoke
    shown, printed = (invoke(app, ["doctor", "-C", str(workspace), *more]) for more in ([], ["--json"]))
    assert (shown.exception, printed.exception) == (None, None)
    assert "\\N{CHECK MARK} Python" in shown.stdout
    assert any(f"free for {workspace}" in finding["text"] for finding in json.loads(printed.stdout))


def test_standard_output_that_takes_no_more_is_not_the_disk(small_world: Path) -> None:
    said = "error: cannot write to standard output: no space left on device. Send it elsewhere, or make room\n"
    for arguments in (["status", "-C", str(small_world)], ["--help"], ["status", "--help"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "rlhf", *arguments]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (15, said), arguments


def test_many_checks_are_counted_by_group_and_shown_where_they_matter(tmp_path: Path) -> None:
    shown = console(100)
    shown.print(render_summary(load_summary(made_workspace(tmp_path))))
    said = text(shown)
    gate = said[said.index("The gate") : said.index("Gate:")]
    assert re.search(r"^  integrity +11/11 +11/11 *$", gate, re.MULTILINE)
    assert re.search(r"^  over-optimisation +5/7 +7/7 *$", gate, re.MULTILINE)
    named = re.findall(r"^ {4}(\w+)", gate, re.MULTILINE)
    missed = ["kl", "gold_gain", "capability", "lm_loss", "serves"]
    assert named == ["better_than_sft", "better_than_champion", *missed]
    assert set(WIN_RATES) <= set(NAMES)


def test_text_of_a_model_is_not_taken_for_markup(tmp_path: Path) -> None:
    summary = load_summary(made_workspace(tmp_path))
    example = summary.examples[0]
    said = {"theirs": "[red]one[/red] [/] [link=x]", "ours": "two\x1b[2J\x08\u202e three"}
    example = replace(example, **{side: replace(getattr(example, side), text=text) for side, text in said.items()})
    shown = console(200)
    shown.print(render_summary(replace(summary, examples=(example,))))
    shown.print(finished_line("sft", "ran", "[red]loss[/red] [/] 0.1", 1.0))
    for literal in ("[red]one[/red] [/] [link=x]", "two�[2J�� three", "[red]loss[/red] [/] 0.1"):
        assert literal in text(shown)
    assert "\x1b" not in text(shown)


def test_without_a_terminal_there_are_plain_lines() -> None:
    shown = console()
    with reporter(shown) as plain:
        assert isinstance(plain, Lines)
        plain.stage_started("sft")
        plain.progress("sft", 1, 100, "steps")
        plain.stage_finished("sft", "ran", "loss 1.2", 3.25)
        plain.stage_finished("gate", "failed", "no rows", 0.1)
        plain.message("unsynced")
    lines = text(shown).splitlines()
    assert [line.split() for line in lines] == [
        ["sft", "started"],
        ["✓", "sft", "3.2", "s", "loss", "1.2"],
        ["✗", "gate", "0.1", "s", "no", "rows"],
        ["unsynced"],
    ]
    assert "\x1b" not in text(shown)


def test_the_time_left_counts_from_where_a_stage_went_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And from where it went back to: a checkpoint before a batch that is left out."""
    shown, clock = console(), iter([0.0, 0.0, 40.0, 80.0, 120.0])
    monkeypatch.setattr("rlhf.cli.live.time.monotonic", lambda: next(clock))
    lines = Lines(shown)
    lines.stage_started("sft")
    lines.progress("sft", 50, 100, "")
    lines.progress("sft", 90, 100, "")
    assert text(shown).splitlines()[-1].split() == ["sft", "90", "of", "100,", "about", "10", "s", "left"]
    lines.progress("sft", 40, 100, "")
    assert len(text(shown).splitlines()) == 2
    lines.progress("sft", 60, 100, "")
    assert text(shown).splitlines()[-1].split() == ["sft", "60", "of", "100,", "about", "80", "s", "left"]


def test_on_a_terminal_there_are_bars_with_the_time_left() -> None:
    shown = console(terminal=True)
    with reporter(shown) as bars:
        assert isinstance(bars, Bars)
        bars.stage_started("align@ppo")
        for step in range(5):
            bars.progress("align@ppo", step, 40, "iterations")
        bars._progress.refresh()
        bars.stage_finished("align@ppo", "ran", "reward 0.61", 12.0)
        bars.stage_finished("gate", "cached", "up to date", 0.0)  # a stage that was never started
        assert bars._progress.tasks == []
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text(shown))
    assert "4/40" in said
    assert "left" in said
    assert "reward 0.61" in said


def test_a_stage_that_is_tried_again_begins_a_new_bar() -> None:
    with reporter(console(terminal=True)) as bars:
        assert isinstance(bars, Bars)
        for _ in range(2):
            bars.stage_started("sft")
            bars.progress("sft", 3, 9, "steps")
        (task,) = bars._progress.tasks
        assert (task.completed, task.fields["label"]) == (3, "steps")
