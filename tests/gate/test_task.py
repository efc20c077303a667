"""The gate as a stage: from the reports of a workspace to decision.json, gate.html and report.html."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.config.editing import set_params
from rlhf.errors import Exit
from rlhf.gate import looks
from rlhf.gate.ledger import Ledger
from rlhf.manifest import digest, sha256, write_manifest
from rlhf.report.summary import load_summary
from tasks import gate
from tests.conftest import run_here
from tests.gate.conftest import ROOT, made_evidence, made_rows
from tests.report.conftest import evaluation, made_workspace, write_json

pytestmark = pytest.mark.integration
GAINS = {"ppo": 1.0, "dpo": 2.0}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that has run up to the gate, in which both policies are good and dpo is better."""
    made_workspace(tmp_path)
    set_params(tmp_path / "params.yaml", ["gate.test_set=dd"])
    for name, gain in GAINS.items():
        make_policy(tmp_path, name, gain)
    evidence = made_evidence()
    write_json(tmp_path / "reports/sft/metrics.json", evidence.sft)
    write_json(tmp_path / "reports/reward/overall/metrics.json", evidence.reward["overall"])
    write_json(tmp_path / "reports/referee/metrics.json", evidence.referee)
    validation = json.loads((tmp_path / "reports/validate.json").read_text())
    write_json(tmp_path / "reports/validate.json", {**validation, **evidence.validation})
    write_json(tmp_path / "reports/screen.json", evidence.screening)
    for name in ("sample", "label"):
        write_json(tmp_path / f"reports/{name}.json", {"rows": 2000})
    (tmp_path / "reports/gate/decision.json").unlink()
    return tmp_path


def make_policy(workspace: Path, name: str, gain: float) -> None:
    """A policy, its receipt, and its evaluation with 400 rows."""
    rows = made_rows(gain=gain)
    evidence = made_evidence(rows)
    policy = workspace / "models/policy" / name
    write_json(policy / "config.json", {"model_type": name})
    write_json(
        policy / "receipt.json", {"stage": f"align@{name}", "key": "3f" * 32, "versions": {}, **evidence.receipt}
    )
    write_manifest(policy)
    write_json(workspace / "reports/align" / name / "metrics.json", evidence.align)
    asked = {"prompt": [[{"role": "user", "content": "?"}]] * 400}
    directory = workspace / "reports/evaluate" / name / "rows"
    tables = {"safety": evidence.safety, "diversity": evidence.diversity, "documents": evidence.documents}
    for file, columns in {"rows": {**rows, **asked}, **tables}.items():
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), directory / f"{file}.parquet")
    write_json(
        directory / "receipt.json", {"stage": f"evaluate@{name}", "key": "4e" * 32, "versions": {}, "inputs": {}}
    )
    write_manifest(directory)
    changed: dict[str, Any] = {**evidence.evaluation, "policy_digest": digest(policy), "champion_digest": None}
    changed["win_rate"] = evaluation(name)["win_rate"] | changed["win_rate"]
    write_json(workspace / "reports/evaluate" / name / "metrics.json", {**evaluation(name), **changed})


def run_gate(workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.gate"]
    return subprocess.run(
        command, cwd=workspace, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120
    )


def test_the_better_policy_wins_and_the_page_is_written(workspace: Path) -> None:
    done = run_gate(workspace)
    assert done.returncode == Exit.DONE, done.stderr
    summary = load_summary(workspace)
    assert (summary.decision.decision, summary.decision.winner) == ("PROMOTE", "dpo")
    assert all(check.passed for candidate in summary.decision.candidates for check in candidate.checks)
    html = (workspace / "reports/report.html").read_text()
    assert summary.decision.sentence.split(":")[0] in html
    why = (workspace / "reports/gate.html").read_text()
    assert sha256(workspace / "reports/gate/decision.json") in why
    decision = (workspace / "reports/gate/decision.json").read_bytes()
    run_here(workspace, "gate", gate)
    assert (workspace / "reports/gate/decision.json").read_bytes() == decision
    assert (workspace / "reports/report.html").read_text() == html
    assert (workspace / "reports/gate.html").read_text() == why


def test_a_refusal_is_a_result(workspace: Path) -> None:
    for name in GAINS:
        make_policy(workspace, name, -1.0)
    run_here(workspace, "gate", gate)
    decision = load_summary(workspace).decision
    assert (decision.decision, decision.winner) == ("REJECT", None)


def test_a_look_at_the_test_set_counts_whoever_runs_the_gate(workspace: Path) -> None:
    run_here(workspace, "gate", gate)
    run_here(workspace, "gate", gate)
    policies = {name: digest(workspace / "models/policy" / name) for name in GAINS}

    def look(name: str) -> str:
        rows = pq.read_table(workspace / "reports/evaluate" / name / "rows/rows.parquet")
        return looks.look(policies[name], "g0", rows["policy_response"].to_pylist())

    first = {look(name) for name in GAINS}
    assert len(first) == len(GAINS)
    assert Ledger.of(workspace).judged() == [{"test_set": "dd", "looks": sorted(first)}]

    file = workspace / "reports/evaluate/dpo/rows/rows.parquet"
    rows = pq.read_table(file).to_pydict()
    rows["policy_response"] = ["Drawn anew.", *rows["policy_response"][1:]]
    pq.write_table(pa.table(rows), file)
    write_manifest(file.parent)
    run_here(workspace, "gate", gate)
    further = {"test_set": "dd", "looks": [look("dpo")]}
    assert Ledger.of(workspace).judged()[1:] == [further], "of the same policy, a further look"


def test_an_evaluation_of_other_bytes_is_no_proof(workspace: Path) -> None:
    for name in GAINS:
        policy = workspace / "models/policy" / name
        write_json(policy / "config.json", {"model_type": "another"})
        write_manifest(policy)
    run_here(workspace, "gate", gate)
    decision = load_summary(workspace).decision
    assert decision.decision == "REJECT"
    failed = {check.name for candidate in decision.candidates for check in candidate.checks if check.stops}
    assert failed == {"policy_bytes"}


def test_a_broken_report_is_named_in_one_line(workspace: Path) -> None:
    (workspace / "reports/reward/overall/metrics.json").write_text("{")
    done = run_gate(workspace)
    assert done.returncode == Exit.DATA
    assert "reports/reward/overall/metrics.json is not JSON" in done.stderr
    assert "Traceback" not in done.stderr
