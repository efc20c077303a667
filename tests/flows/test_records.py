"""The gate's decision as Prefect shows it."""

import re
from dataclasses import replace

from markdown_it import MarkdownIt

from flows.records import gate_report
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
