"""MLflow behind a network that fails: training does not wait for it, and everything arrives, once."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import Exit, ServiceError
from rlhf.gate.ledger import Ledger
from rlhf.tracking import store as tracking_store
from rlhf.tracking.journal import read
from rlhf.tracking.mirror import mirror
from rlhf.tracking.promotion import promote, steps
from rlhf.tracking.sender import sync
from rlhf.tracking.sent import load_sent
from rlhf.tracking.store import connect
from tests.conftest import ROOT, wait_until
from tests.faulty import MODES, Faulty, faulty
from tests.pipeline.test_stage import rewrite
from tests.tracking.conftest import Server
from tests.tracking.stored import assert_agrees
from tests.tracking.workspace import Workspace

SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}
FAILING = [mode for mode in MODES if mode not in ("lost", "twice")]  # these two help themselves
TRAINING = """
longest, last, step = 0.0, time.monotonic(), 0
while not (stage.workspace / "enough").exists():
    stage.log(step, {"loss": 1.0 / (step + 1), "kl": 0.1 * step})
    step, now = step + 1, time.monotonic()
    longest, last = max(longest, now - last), now
    time.sleep(0.02)
(stage.workspace / "longest").write_text(str(longest))
(stage.output("data/rows") / "rows.txt").write_text("rows")
stage.metrics({"rows": 1})
"""

pytestmark = pytest.mark.integration


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faulty]:
    """A proxy before the server, as the store of this test, under an experiment of its own."""
    with faulty(server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        monkeypatch.setenv("RLHF_EXPERIMENT", tmp_path.name)
        for name, value in SHORT.items():
            monkeypatch.setenv(name, value)
        yield proxy


def test_no_step_waits_and_every_metric_arrives_once(
    proxy: Faulty,
    new_workspace: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every fault comes in the middle of a run and, again, when it is over; a server that is down at the start, too."""
    made = shutil.copytree(new_workspace, tmp_path / "workspace")
    rewrite(made, "rows", TRAINING)
    command, log = [sys.executable, "-m", "rlhf.tracking.sender", str(made), "--follow"], tmp_path / "sender.log"
    with open(log, "wb") as errors:
        proxy.set("refuse")
        sender = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=errors)
    stage = subprocess.Popen([sys.executable, "rows.py"], cwd=made, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: log.stat().st_size > 0, "word of the server that is down", 60.0)
        for mode in MODES:
            proxy.set(mode)
            if mode != "refuse":
                wait_until(lambda: proxy.hits > 0, f"the fault {mode}")
            proxy.set(None)
            arrives(made, mode)
        proxy.set("freeze")
        (made / "enough").touch()
        assert stage.wait(30) == Exit.DONE
        assert sender.stdin
        sender.stdin.close()
        begun = time.monotonic()
        assert sender.wait(60) == Exit.SERVICE
        assert time.monotonic() - begun < 15
    finally:
        for process in (sender, stage):
            process.kill()
            process.wait()
    down, unsynced = log.read_text().splitlines()
    assert "Nothing is lost: start the server" in down
    assert unsynced == "unsynced: run `rlhf sync` when MLflow answers"
    assert float((made / "longest").read_text()) < 1.0

    for mode in FAILING:
        proxy.set(mode)
        begun = time.monotonic()
        assert sync(made) == Exit.SERVICE, mode
        assert time.monotonic() - begun < 10, mode
        assert len(capfd.readouterr().err.splitlines()) == 2, mode
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    proxy.set("twice")
    assert sync(made) == Exit.DONE
    proxy.set(None)
    (journal,) = made.glob(".work/*/journal.jsonl")
    steps = [record for record in read(journal) if record["kind"] == "metrics"]
    store = connect(made)
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED"
    for key in ("loss", "kl"):
        history = store.client.get_metric_history(run.info.run_id, f"train/{key}")
        found = sorted((point.step, point.value) for point in history)
        assert found == [(record["step"], record["values"][key]) for record in steps]


def arrives(made: Path, mode: str) -> None:
    """Wait until more of the journal is known to be in MLflow."""

    def stored() -> int:
        return sum(entry.offset for entry in load_sent(made).journals.values())

    before = stored()
    wait_until(lambda: stored() > before, f"news in MLflow after {mode}")


def test_what_is_registered_and_promoted_is_so_once(
    proxy: Faulty, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's client hears of a bad gateway and tries again what was done already. Then the registry is away."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        proxy.set("lost")
        assert sync(workspace.path) == Exit.DONE
        proxy.set(None)
        assert_agrees(workspace)

    for mode in FAILING:
        proxy.set(mode)
        fails_in_time(promote, workspace, mode)
    assert Ledger.of(workspace.path).history() == []
    proxy.set(None)
    promotion = steps(workspace.path)
    while next(promotion) != "written":
        pass
    proxy.set("freeze")
    with pytest.raises(StopIteration) as ended:
        next(promotion)
    assert ended.value.value.sentence.endswith("MLflow does not know it yet: `rlhf sync` tells it")
    for mode in FAILING:
        proxy.set(mode)
        fails_in_time(mirror, workspace, mode)
    proxy.set(None)
    assert mirror(workspace.path) == ["champion"]
    assert len(Ledger.of(workspace.path).history()) == 1


def fails_in_time(command: Callable[[Path], Any], workspace: Workspace, mode: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=r"MLflow at .* does not take the records"):
        command(workspace.path)
    assert time.monotonic() - begun < 10, mode


def test_an_upload_that_trickles_is_broken_off_by_its_size(
    proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of a second of silence makes a second a call, and 1.5 MB at 1 MB a second one and a half more."""
    (tmp_path / "model/deep").mkdir(parents=True)
    (tmp_path / "model/deep/weights").write_bytes(bytes(1_500_000))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setattr(tracking_store, "SLOWEST", 1e6)
    store = connect(tmp_path)
    run = store.client.create_run(store.experiment_id).info.run_id
    proxy.set("sip")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.25")
        begun = time.monotonic()
        late = r"no whole answer to log_artifacts within 2\.5\d* s.*run `rlhf sync`"
        with pytest.raises(ServiceError, match=late), tracking_store.reaching(store.uri):
            store.client.log_artifacts(run, str(tmp_path / "model"), "model")
        assert 2.5 <= time.monotonic() - begun < 5
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "0.25"
    assert proxy.hits
    proxy.set(None)
    store.client.log_artifacts(run, str(tmp_path / "model"), "model")
    (sent,) = store.client.list_artifacts(run, "model/deep")
    assert sent.file_size == 1_500_000
