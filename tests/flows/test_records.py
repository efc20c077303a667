"""The gate's decision as Prefect shows it."""

from flows.records import gate_report
from tests.report.conftest import made_decision


def test_the_artifact_is_the_sentence_and_what_does_not_pass() -> None:
    decision = made_decision()
    said = gate_report(decision.to_json())
    assert said.startswith(f"# PROMOTE\n\n{decision.sentence}\n")
    assert "Checks passed: integrity 7/7, sanity 6/6, judge 4/4, quality 4/5," in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ") and "not passed" not in line]
    missed = [check.name for candidate in decision.candidates for check in candidate.checks if not check.passed]
    assert [row[0].removeprefix("| ") for row in rows] == missed
    assert rows[0][1:5] == ["0.511", "0.462 to 0.561", "0.5", "400"]


def test_what_data_wrote_stays_text_in_its_cell() -> None:
    decision = made_decision().to_json()
    decision["candidates"]["ppo"]["checks"][0] |= {"passed": False, "reason": "a | b\n<script>1</script>\u202e"}
    said = gate_report(decision)
    assert "| policy_bytes |  |  |  | 400 | a \\| b &lt;script&gt;1&lt;/script&gt;⟨U+202E⟩ |\n" in said
    assert "<" not in said
