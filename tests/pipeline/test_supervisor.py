"""The supervisor tells what DVC did, passes on exit codes, and leaves nothing alive."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf.errors import Exit
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.process import is_alive
from rlhf.pipeline.supervisor import Outcome, supervise
from tests.conftest import ROOT, wait_until
from tests.pipeline.test_stage import rewrite

pytestmark = pytest.mark.integration


def bring(workspace: Path, stage: str, stop: threading.Event | None = None) -> Outcome:
    spec = load_graph(workspace).stages[stage]
    return supervise(spec, workspace, "run-1", stop or threading.Event(), lambda *_: None)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_ran_cached_and_restored_are_told_apart(workspace: Path) -> None:
    first = bring(workspace, "rows")
    assert (first.state, first.exit, first.summary) == ("ran", Exit.DONE, "2 rows")
    assert first.key
    assert (workspace / ".work" / first.key).is_dir()
    assert bring(workspace, "rows").state == "cached"
    (workspace / "data/rows/rows.txt").unlink()
    assert bring(workspace, "rows").state == "restored"
    assert (workspace / "data/rows/rows.txt").read_text() == "- one\n- two\n"


def test_progress_is_passed_on(workspace: Path) -> None:
    bring(workspace, "rows")
    heard: list[tuple[int, int, str]] = []
    spec = load_graph(workspace).stages["model@large"]
    supervise(spec, workspace, "run-1", threading.Event(), lambda *event: heard.append(event))
    assert heard[-1] == (2, 2, "steps")


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise errors.ConfigError('`rows.prefix` is odd')", Exit.CONFIG, "`rows.prefix` is odd"),
        ("raise ValueError('shapes differ')", Exit.FAILED, "ValueError: shapes differ"),
        ("os.kill(os.getpid(), 9)", Exit.PREEMPTED, "killed by signal 9"),
        ("os._exit(20)", Exit.RETRYABLE, "exited with 20"),
    ],
)
def test_exit_codes_come_through_dvc(workspace: Path, body: str, code: Exit, says: str) -> None:
    rewrite(workspace, "rows", body)
    outcome = bring(workspace, "rows")
    assert outcome.exit == code
    assert says in outcome.message
    assert "Traceback" not in outcome.message


def test_any_command_can_be_a_stage(workspace: Path) -> None:
    edit(workspace / "dvc.yaml", "python rows.py", "exit 11")
    assert bring(workspace, "rows").exit == Exit.DATA


def test_an_input_that_is_not_there_is_named(workspace: Path) -> None:
    (workspace / "source.txt").unlink()
    outcome = bring(workspace, "rows")
    assert outcome.exit == Exit.DATA
    assert str(workspace / "source.txt") in outcome.message


def test_what_a_frozen_stage_has_lost_is_named(workspace: Path) -> None:
    edit(workspace / "dvc.yaml", "cmd: python rows.py", "frozen: true\n    cmd: python rows.py")
    outcome = bring(workspace, "rows")
    assert outcome.exit == Exit.DATA
    assert outcome.message.startswith("`rows` is frozen, and has lost data/rows")
    assert outcome.message.endswith("or have it run again: dvc unfreeze rows")


def test_when_time_is_up_the_stage_and_what_it_started_are_dead(workspace: Path) -> None:
    bring(workspace, "rows")
    edit(workspace / "dvc.yaml", "timeout: 60", "timeout: 3")
    grandchild = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    body = f"import subprocess\nchild = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
    body += "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\ntime.sleep(60)"
    rewrite(workspace, "model", body)
    outcome = bring(workspace, "model@small")
    assert outcome.exit == Exit.FAILED
    assert "meta.timeout" in outcome.message
    assert outcome.seconds < 3 + 10
    pids = [int(pid) for pid in (workspace / "pids").read_text().split()]
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the death of both", 5.0)


@pytest.mark.parametrize(
    ("hang", "where"),
    [
        ("threading.Event().wait()", "ended in hang of "),
        ("os.kill(os.getpid(), 19)", "a signal had stopped it, in hang"),
    ],
)
def test_a_stage_that_hangs_tells_where_and_is_ended(workspace: Path, hang: str, where: str) -> None:
    """Not while it shows progress, for longer than it may be silent."""
    body = f"""
import threading
def hang():
    {hang}
    time.sleep(60)
open('pid', 'w').write(str(os.getpid()))
for part in range(8):
    time.sleep(0.25)
    stage.progress(part, 9)
hang()
"""
    bring(workspace, "rows")
    edit(workspace / "dvc.yaml", "timeout: 60", "timeout: 60, stalled: 1.5")
    rewrite(workspace, "model", body)
    outcome = bring(workspace, "model@small")
    assert outcome.exit == Exit.RETRYABLE
    assert where in outcome.message
    assert f"{workspace}/model.py, line " in outcome.message
    assert outcome.seconds > 8 * 0.25 + 1.5
    log = (workspace / ".rlhf/logs/model@small.log").read_text()
    assert "Current thread" in log
    assert "in run_stage" in log
    assert not is_alive(int((workspace / "pid").read_text()))


def test_a_stage_that_is_stopped_can_save_a_checkpoint(workspace: Path) -> None:
    body = """
open('up', 'w').close()
try:
    time.sleep(60)
finally:
    (stage.work / "checkpoint").write_text("step 3")
"""
    rewrite(workspace, "rows", body)
    stop = threading.Event()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(bring(workspace, "rows", stop)))
    thread.start()
    wait_until((workspace / "up").exists, "the stage")
    started = time.monotonic()
    stop.set()
    thread.join()
    assert outcomes[0].exit == Exit.PREEMPTED
    assert time.monotonic() - started < 8.0
    assert [file.read_text() for file in workspace.glob(".work/*/checkpoint")] == ["step 3"]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_kill_9_of_the_supervisor_kills_dvc_and_the_stage(workspace: Path, shell: str) -> None:
    rewrite(workspace, "rows", "open('pids', 'w').write(f'{os.getpid()} {os.getppid()}')\ntime.sleep(60)")
    program = f"""
import threading
from pathlib import Path
from rlhf.pipeline import supervisor
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.process import is_alive
if {shell!r} != "/bin/sh":
    own = supervisor._environment
    supervisor._environment = lambda *given: {{**own(*given), "SHELL": {shell!r}}}
spec = load_graph(Path(".")).stages["rows"]
supervisor.supervise(spec, Path(".").resolve(), "run-1", threading.Event(), print)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=workspace, env=environment)
    pids = workspace / "pids"
    wait_until(lambda: pids.exists() and pids.read_text() != "", "the stage")
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(is_alive(pid) for pid in started), "the death of the stage and of its parent", 5.0)
    assert not (workspace / "data/rows").exists()


def test_a_stage_waits_while_another_one_holds_dvc(workspace: Path) -> None:
    from dvc.repo import Repo

    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(bring(workspace, "rows")))
    with Repo(str(workspace)) as repo, repo.lock:  # as when a large output is hashed
        thread.start()
        time.sleep(6)  # DVC by itself gives up after 3 s
    thread.join()
    assert (outcomes[0].state, outcomes[0].exit) == ("ran", Exit.DONE), outcomes[0].message


def test_directories_of_the_workspace_do_not_hide_the_projects_packages(workspace: Path) -> None:
    for name in ("tasks", "rlhf", "dvc"):
        (workspace / name).mkdir()
        (workspace / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    outcome = bring(workspace, "rows")
    assert (outcome.state, outcome.exit) == ("ran", Exit.DONE), outcome.message
