"""A stage as a process: what it leaves, how it ends, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.errors import Exit
from rlhf.manifest import digest
from rlhf.pipeline import fingerprint
from rlhf.pipeline.process import is_alive
from rlhf.pipeline.receipt import content_key
from rlhf.tracking.journal import read
from tests.conftest import ROOT, wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.integration
HEADER = "from rlhf.pipeline.stage import Stage, run_stage\nfrom rlhf import errors\nimport os, sys, time\n"
FOOTER = "\nif __name__ == '__main__':\n    run_stage(main)\n"


def rewrite(workspace: Path, name: str, body: str) -> None:
    """Give a program of the toy workspace another body, and code.json its fingerprint."""
    text = "".join(f"    {line}\n" for line in body.splitlines())
    (workspace / f"{name}.py").write_text(f"{HEADER}def main(stage):\n{text}{FOOTER}")
    fingerprint.refresh(workspace)


def work_of(workspace: Path, stage: str) -> list[Path]:
    """Work directories of a stage, by its journals."""
    found = workspace.glob(".work/*/journal.jsonl")
    return [file.parent for file in found if next(read(file))["stage"] == stage]


def left_over(workspace: Path) -> list[str]:
    return [path.name for path in workspace.rglob(".partial-*")]


def test_outputs_have_receipt_and_manifest_and_the_journal_tells_the_run(workspace: Path, run_program: Run) -> None:
    done = run_program("rows.py", RLHF_RUN="run-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "rows: 2 rows\n")
    assert (workspace / "data/rows/rows.txt").read_text() == "- one\n- two\n"
    assert (workspace / "reports/rows.json").read_text() == '{\n "rows": 2,\n "share": 0.333333\n}\n'
    receipt = json.loads((workspace / "data/rows/receipt.json").read_text())
    assert receipt["params"] == {"seed": 0, "rows": {"prefix": "- "}}
    assert receipt["inputs"] == {"source.txt": digest(workspace / "source.txt")}
    assert receipt["code"] == json.loads((workspace / "code.json").read_text())["rows"]
    (work,) = work_of(workspace, "rows")
    records = list(read(work / "journal.jsonl"))
    assert [record["kind"] for record in records] == ["start", "metrics_final", "output", "output", "end"]
    assert records[0]["pipeline_run"] == "run-1"
    assert records[2]["digest"] == digest(workspace / "data/rows")
    assert records[-1]["status"] == "done"
    assert work.name == receipt["key"]


def test_equal_work_has_equal_bytes_and_one_key(workspace: Path, run_program: Run) -> None:
    run_program("rows.py")
    first = digest(workspace / "data/rows")
    run_program("rows.py", RLHF_RUN="another")
    assert digest(workspace / "data/rows") == first
    assert len(work_of(workspace, "rows")) == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("params.yaml", 'prefix: "- "', 'prefix: "* "', False),
        ("params.yaml", "seed: 0", "seed: 1", False),
        ("params.yaml", "limit: 1", "limit: 2", True),  # of another stage
        ("params.yaml", "seed: 0", "seed: 0 # comment", True),
        ("source.txt", "two", "three", False),
        ("rows.py", "len(lines)", "len(lines) + 0", False),
        ("rows.py", "    lines =", "    # a comment\n    lines =", True),
    ],
)
def test_the_key_follows_params_inputs_and_code(
    workspace: Path, run_program: Run, file: str, old: str, new: str, same: bool
) -> None:
    run_program("rows.py")
    text = (workspace / file).read_text()
    assert old in text
    (workspace / file).write_text(text.replace(old, new))
    fingerprint.refresh(workspace)
    assert run_program("rows.py").returncode == 0
    assert (len(work_of(workspace, "rows")) == 1) == same


def test_the_receipts_of_what_is_upstream_are_at_hand(workspace: Path, run_program: Run) -> None:
    for command in (["rows.py"], ["model.py", "small"], ["model.py", "large"], ["gate.py"]):
        assert run_program(*command).returncode == 0
    assert (workspace / "report.txt").read_text() == "{'large': 24, 'small': 12}\n['models/large', 'models/small']\n"
    journal = work_of(workspace, "model@large")[0] / "journal.jsonl"
    assert [r["values"] for r in read(journal) if r["kind"] == "metrics"] == [{"loss": 1.0}, {"loss": 0.5}]


def test_a_flipped_byte_in_an_input_is_named_before_anything_runs(workspace: Path, run_program: Run) -> None:
    run_program("rows.py")
    rows = workspace / "data/rows/rows.txt"
    rows.write_bytes(rows.read_bytes().replace(b"one", b"onf"))
    done = run_program("model.py", "small")
    assert done.returncode == Exit.DATA
    assert str(rows) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (workspace / "models").exists()


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("stage.input('params.yaml')", ["params.yaml", "deps"]),
        ("stage.output('elsewhere')", ["elsewhere", "outs"]),
        ("stage.input('data')", ["data", "deps"]),  # a directory around an input
    ],
)
def test_what_dvc_yaml_does_not_declare_is_refused(
    workspace: Path, run_program: Run, body: str, names: list[str]
) -> None:
    run_program("rows.py")
    rewrite(workspace, "model", body)
    done = run_program("model.py", "small")
    assert done.returncode == Exit.CONFIG
    assert all(name in done.stderr for name in ["`model@small`", *names]), done.stderr


def test_code_that_was_edited_after_code_json_was_written_does_not_run(workspace: Path, run_program: Run) -> None:
    program = workspace / "rows.py"
    program.write_text(program.read_text().replace("1 / 3", "1 / 4"))
    done = run_program("rows.py")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert "The code of `rows` is not what code.json says" in done.stderr
    assert not (workspace / "data/rows").exists()


def test_what_was_made_with_parameters_that_changed_meanwhile_is_not_kept(workspace: Path, run_program: Run) -> None:
    body = """
params = stage.workspace / "params.yaml"
params.write_text(params.read_text().replace('"- "', '"* "'))
(stage.output("data/rows") / "rows.txt").write_text("- one")
stage.metrics({})
"""
    assert '"- "' in (workspace / "params.yaml").read_text()
    rewrite(workspace, "rows", body)
    done = run_program("rows.py")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert "rows changed while `rows` ran" in done.stderr
    assert not (workspace / "data/rows").exists()


def test_what_was_made_of_an_input_that_changed_meanwhile_is_not_kept(workspace: Path, run_program: Run) -> None:
    """DVC hashes inputs after a stage: it would take what was read for what stands there now."""
    body = """
source = stage.input("source.txt")
source.write_text(source.read_text() + "one more\\n")
(stage.output("data/rows") / "rows.txt").write_text("- one")
stage.metrics({})
"""
    rewrite(workspace, "rows", body)
    done = run_program("rows.py")
    assert (done.returncode, done.stdout) == (Exit.RETRYABLE, "")
    assert "source.txt changed while `rows` ran, and what it made is not kept" in done.stderr
    assert not (workspace / "data/rows").exists()


def test_an_unknown_stage_is_told_what_there_is(run_program: Run) -> None:
    done = run_program("model.py", "huge")
    assert done.returncode == Exit.CONFIG
    assert "`model@huge`" in done.stderr
    assert "model@small" in done.stderr


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise errors.DataError('row 3 is bad')", Exit.DATA, "row 3 is bad"),
        ("raise errors.Retryable('the hub is away')", Exit.RETRYABLE, "the hub is away"),
        ("raise MemoryError", Exit.OUT_OF_MEMORY, "more memory"),
        (
            "raise type('OutOfMemoryError', (RuntimeError,), {'__module__': 'torch'})('CUDA out of memory')",
            Exit.OUT_OF_MEMORY,
            "CUDA out of memory",
        ),
        (
            "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')",
            Exit.OUT_OF_MEMORY,
            "CUBLAS_STATUS_ALLOC_FAILED",
        ),
        ("raise OSError(28, 'No space left on device', 'models/x')", Exit.DISK_FULL, "models/x: "),
        ("raise RuntimeError('I/O error: No space left on device (os error 28)')", Exit.DISK_FULL, "MB are free"),
        ("raise ValueError('shapes differ')", Exit.FAILED, "traceback in .rlhf/logs/rows.log"),
        ("raise KeyboardInterrupt", Exit.PREEMPTED, "checkpoint"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", Exit.PREEMPTED, "checkpoint"),
        ("pass", Exit.FAILED, "without making data/rows"),
        ("stage.metrics({'x': float('nan')})", Exit.FAILED, "JSON"),
    ],
)
def test_every_end_has_its_code_and_one_line(
    workspace: Path, run_program: Run, body: str, code: Exit, says: str
) -> None:
    run_program("rows.py")
    before = digest(workspace / "data/rows")
    (workspace / "source.txt").write_text("changed\n")
    rewrite(
        workspace,
        "rows",
        f"(stage.output('data/rows') / 'torn').write_text('half')\n{body}" if body != "pass" else body,
    )
    done = run_program("rows.py")
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert digest(workspace / "data/rows") == before
    assert left_over(workspace) == []


def test_the_traceback_is_in_the_log_and_shown_on_demand(workspace: Path, run_program: Run) -> None:
    rewrite(workspace, "rows", "raise ValueError('shapes differ')")
    assert "Traceback" not in run_program("rows.py").stderr
    assert "ValueError: shapes differ" in (workspace / ".rlhf/logs/rows.log").read_text()
    assert "Traceback" in run_program("rows.py", RLHF_DEBUG="1").stderr


def test_a_stage_that_was_killed_leaves_its_work_and_the_next_one_starts_clean(
    workspace: Path, run_program: Run
) -> None:
    body = """
checkpoint = stage.work / "checkpoint"
out = stage.output("data/rows")
if not checkpoint.exists():
    (out / "torn").write_text("half")
    checkpoint.write_text("step 7")
    os.kill(os.getpid(), 9)
(out / "rows.txt").write_text(checkpoint.read_text())
stage.metrics({})
"""
    rewrite(workspace, "rows", body)
    assert run_program("rows.py").returncode == -signal.SIGKILL
    assert left_over(workspace) == [".partial-rows"]
    assert run_program("rows.py").returncode == 0
    assert sorted(path.name for path in (workspace / "data/rows").iterdir()) == [
        "MANIFEST.json",
        "receipt.json",
        "rows.txt",
    ]
    assert (workspace / "data/rows/rows.txt").read_text() == "step 7"
    assert left_over(workspace) == []


def test_a_stage_that_is_set_back_begins_again_as_a_fresh_process(workspace: Path, run_program: Run) -> None:
    body = """
pids = stage.work / "pids"
with pids.open("a") as file:
    file.write(f"{os.getpid()} ")
if len(pids.read_text().split()) < 3:
    raise errors.SetBack("step 3 is not finite")
(stage.output("data/rows") / "rows.txt").write_text(pids.read_text())
stage.metrics({})
"""
    rewrite(workspace, "rows", body)
    done = run_program("rows.py")
    assert done.returncode == 0
    assert done.stderr == 2 * "rows: step 3 is not finite\n"
    assert len(set((workspace / "data/rows/rows.txt").read_text().split())) == 1
    (work,) = work_of(workspace, "rows")
    assert [r["status"] for r in read(work / "journal.jsonl") if r["kind"] == "end"] == ["failed", "failed", "done"]


def test_the_same_work_twice_at_once_is_busy_and_names_the_holder(workspace: Path, run_program: Run) -> None:
    rewrite(workspace, "rows", "stage.output('data/rows')\nopen('up', 'w').close()\ntime.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, "rows.py"], cwd=workspace, env=environment)
    try:
        wait_until((workspace / "up").exists, "the first run")
        done = run_program("rows.py")
        assert done.returncode == Exit.BUSY
        assert f"process {first.pid}" in done.stderr
    finally:
        first.kill()
        first.wait()


def test_a_stage_dies_with_its_parent(workspace: Path) -> None:
    rewrite(workspace, "rows", "open('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    starter = f"import subprocess, sys; subprocess.run([{sys.executable!r}, 'rows.py'])"
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], cwd=workspace, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    pid = workspace / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() != "", "the stage")
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(int(pid.read_text())), "the stage's death", 5.0)


def test_a_light_stage_imports_nothing_heavy(workspace: Path, run_program: Run) -> None:
    heavy = "[m for m in ('torch', 'transformers', 'mlflow', 'prefect', 'dvc', 'pandas', 'rich') if m in sys.modules]"
    rewrite(
        workspace,
        "rows",
        f"stage.output('data/rows').joinpath('rows.txt').write_text(str({heavy}))\nstage.metrics({{}})",
    )
    assert run_program("rows.py").returncode == 0
    assert (workspace / "data/rows/rows.txt").read_text() == "[]"


def test_starting_a_stage_is_quick(workspace: Path, run_program: Run) -> None:
    assert run_program("rows.py").returncode == 0
    started = time.monotonic()
    assert run_program("rows.py").returncode == 0
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("other", [np.zeros(4, dtype=np.int32), np.zeros((2, 2), dtype=np.float32), np.ones(4), None])
def test_what_is_kept_has_another_name_where_anything_of_it_differs(other: Any) -> None:
    """Also where bytes alone are the same."""
    array = np.zeros(4, dtype=np.float32)
    assert content_key({"x": array, "y": 1}) == content_key({"y": 1, "x": array.copy()}) != content_key({"x": array})
    assert content_key({"x": array}) != content_key({"x": other})
