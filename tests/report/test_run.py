"""The report is one self-contained page, the same every time, and no text in it can break out of its place."""

import json
import re
from pathlib import Path

import pytest

from rlhf.config.editing import set_params
from rlhf.gate.checks import NAMES
from rlhf.report.page import number
from rlhf.report.run import read_curves, render_report
from rlhf.text import visible
from tests.report.conftest import RECEIPTS, made_decision
from tests.report.page import STRICT, Page


@pytest.fixture
def html(workspace: Path) -> str:
    return render_report(workspace, made_decision(), RECEIPTS)


def test_hostile_text_is_shown_wherever_it_can_come_from(workspace: Path) -> None:
    hostile = "](../..)</td><script>1</script>\u202e\x1b[2J" + "x" * 300
    alarm = {"name": hostile, "found": hostile, "value": 0.9, "low": 0.8, "high": 1.0, "n": 40}
    counts = {hostile: {"rows": 1, "kept": 1, "quarantined": 0, "reasons": {}}}
    (workspace / "reports/validate.json").write_text(json.dumps({"tables": counts}))
    (workspace / "reports/screen.json").write_text(json.dumps({"judgements": 40, "alarms": [alarm]}))
    (workspace / "reports/collect.json").write_text(json.dumps({hostile: 1}))
    receipts = {
        hostile: {"stage": hostile, "key": hostile, "inputs": {hostile: hostile}, "versions": {hostile: hostile}}
    }
    html = render_report(workspace, made_decision(), receipts)
    assert Page(html).open == []
    assert "script" not in Page(html).tags
    assert not {"\u202e", "\x1b"} & {*html}
    assert html.count("](../..)&lt;/td&gt;&lt;script&gt;1&lt;/script&gt;⟨U+202E⟩⟨U+001B⟩[2J" + "x" * 300) >= 10


def test_nothing_is_fetched(html: str) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert Page(html).policy == STRICT
    attributes = Page(html).attributes
    assert "src" not in {name for name, _ in attributes}
    links = [value for name, value in attributes if name in ("href", "xlink:href")]
    assert all(value is not None and (value.startswith("#") or value == "gate.html") for value in links)


def test_the_same_inputs_give_the_same_bytes(workspace: Path, html: str) -> None:
    assert render_report(workspace, made_decision(), RECEIPTS) == html


def test_a_page_for_everyone(html: str) -> None:
    page = Page(html)
    assert page.tags.count("h1") == 1
    assert ("lang", "en") in page.attributes
    assert page.tags.count("table") == page.tags.count("caption")
    drawings = page.tags.count("svg")
    assert drawings == page.attributes.count(("aria-hidden", "true"))
    assert [name for name, _ in page.attributes].count("role") == 2 * page.tags.count("figure")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in html


def test_the_gate_is_a_line_a_candidate_and_a_link(html: str) -> None:
    section = html[html.index('id="gate"') : html.index('id="plots"')]
    assert '<a href="gate.html">' in section
    shown = [(int(passed), int(checks)) for passed, checks in re.findall(r"(\d+) of (\d+)</td>", section)]
    assert shown == [(len(NAMES) - 6, len(NAMES)), (len(NAMES) - 1, len(NAMES))]
    missed = [check.name for check in made_decision().candidates[0].checks if not check.passed]
    assert [name for name in missed if name.replace("_", " ") not in section] == []


def test_several_rewards_stand_beside_their_sum(workspace: Path, html: str) -> None:
    assert "weighted sum" not in html
    set_params(workspace / "params.yaml", ["reward.criteria={overall: 1.0, harmless: 1.0}"])
    for name in ("ppo", "dpo"):
        path = workspace / "reports/evaluate" / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["rewards"]["harmless"] = {"policy": 0.123, "sft": 0.456}
        path.write_text(json.dumps(metrics))
    (workspace / "reports/reward/harmless").mkdir()
    for file in ("metrics.json", "curves.csv", "calibration.csv"):
        (workspace / "reports/reward/harmless" / file).write_bytes(
            (workspace / "reports/reward/overall" / file).read_bytes()
        )
    html = render_report(workspace, made_decision(), RECEIPTS)
    assert '<th scope="col">overall</th><th scope="col">harmless</th>' in html.replace("\n", "")
    assert (html.count("<td>0.123</td>"), html.count("<td>0.456</td>")) == (
        4,
        3,
    )  # of each model; in two stages' metrics
    assert "reward model harmless" in html
    assert "<h3>reward@harmless</h3>" in html


def test_plots_that_have_no_numbers_are_left_out(workspace: Path) -> None:
    (workspace / "reports/reward/overall/calibration.csv").write_text("confidence,accuracy,count\n")
    (workspace / "reports/align/ppo/curves.csv").unlink()
    html = render_report(workspace, made_decision(), RECEIPTS)
    assert "Reward-model calibration" not in html
    assert "On the way there" not in html
    assert "Reward against KL" in html


def test_curves_leave_out_rows_with_holes(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("step,loss,kl\n1,2.5,\n2,,1\n3,nan,1\n4,1.5,1\n")
    assert read_curves(tmp_path / "curves.csv", "step", "loss") == {"step": [1.0, 4.0], "loss": [2.5, 1.5]}
    assert read_curves(tmp_path / "curves.csv", "step", "reward") == {}


def test_invisible_characters_are_named() -> None:
    assert visible("a\u202eb\u2066c\x1b[31m\u200d\ufeff\x00\U000e0041") == (
        "a⟨U+202E⟩b⟨U+2066⟩c⟨U+001B⟩[31m⟨U+200D⟩⟨U+FEFF⟩⟨U+0000⟩⟨U+E0041⟩"
    )
    assert visible("two lines\n\tand a tab, é, 漢, 🙂") == "two lines\n\tand a tab, é, 漢, 🙂"


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.123456, 1200.0, -0.04, 0.0, None, 1e-7)] == [
        "0.123",
        "1,200",
        "-0.04",
        "0",
        "–",
        "1e-07",
    ]
