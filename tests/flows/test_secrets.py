"""Canaries: secrets planted in the environment of a run that fails in every way are nowhere in what it leaves."""

import base64
import gzip
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf import telemetry
from rlhf.errors import Exit
from tests.conftest import free_port
from tests.flows.running import Told, run, task_states
from tests.pipeline.test_stage import rewrite

CANARY = "canary7f3a"
PLANTED = {
    "HF_TOKEN": f"hf_{CANARY}",
    "AWS_ACCESS_KEY_ID": f"AKIA{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"aws/{CANARY}+x",
    "JUDGE_API_KEY": f"sk-{CANARY}",
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": f"mlflow-{CANARY}",
    "PREFECT_API_AUTH_STRING": f"me:prefect-{CANARY}",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://me:db-{CANARY}@nowhere/x",
    "WAREHOUSE": f"s3://me:{CANARY}@host/x",
}
FAILS = """
import json, resource
assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
(stage.workspace / f"names-{stage.item}").write_text(json.dumps(sorted(os.environ)))
assert "canary" in os.environ["HF_TOKEN"] and "canary" in os.environ["WAREHOUSE"]
if stage.item == "small":
    raise RuntimeError(repr(dict(os.environ)))
try:
    raise OSError(os.environ["AWS_SECRET_ACCESS_KEY"])
except OSError as error:
    raise errors.ServiceError(f"{os.environ['WAREHOUSE']} does not answer: {error}") from error
"""


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file as they are, and what is packed in them."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PAR1"):
        yield repr(pq.read_table(path).to_pylist()).encode()
    if data.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
            yield "\n".join(store.iterdump()).encode()


def leaks(*roots: Path) -> list[Path]:
    """Files below `roots` that hold a canary, as it is or in base64."""
    coded = (base64.b64encode(b" " * shift + CANARY.encode())[4 if shift else 0 : -4] for shift in range(3))
    forms = [CANARY.encode(), *coded]
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(form in data for data in contents(path) for form in forms)]


def test_the_scan_sees_what_is_packed(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(f"x{CANARY}")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(CANARY.encode()))
    pq.write_table(pa.table({"x": [CANARY]}), tmp_path / "rows.parquet", compression="zstd")
    for shift in range(3):
        (tmp_path / f"coded-{shift}").write_bytes(base64.b64encode(b"x" * shift + CANARY.encode() + b"yyy"))
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        store.execute("CREATE TABLE t (x)")
        store.execute("INSERT INTO t VALUES (?)", [" " * 4060 + CANARY])  # over the end of a page
        store.commit()
    (tmp_path / "nothing").write_text("canary")
    assert {path.name for path in leaks(tmp_path)} == {path.name for path in tmp_path.iterdir()} - {"nothing"}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, finished: Path) -> Iterator[None]:
    """The secrets in the environment, in Prefect's settings, and in DVC's private file."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    (finished / ".dvc/config.local").write_text(
        f"[core]\n remote = far\n['remote \"far\"']\n url = http://me:{CANARY}@h/\n"
    )
    with temporary_settings({PREFECT_API_AUTH_STRING: PLANTED["PREFECT_API_AUTH_STRING"]}):
        yield


@pytest.mark.integration
def test_no_secret_is_left_by_a_run_that_fails(finished: Path, prefect_server: str, planted: None) -> None:
    from prefect.logging.handlers import APILogHandler

    home = Path(os.environ["PREFECT_HOME"])
    rewrite(finished, "model", FAILS)
    told = Told()
    result = run(finished, told)
    shown = task_states(result.id, finished)
    APILogHandler().flush()
    assert result.stages["model@small"].exit == Exit.FAILED
    assert "'HF_TOKEN': '***'" in shown["model@small"][1]
    assert shown["model@large"] == ("Failed", "SERVICE: s3://me:***@host/x does not answer: ***")
    assert result.synced
    assert CANARY not in repr((result, told))
    assert "RuntimeError" in (finished / ".rlhf/logs/model@small.log").read_text()
    (finished / ".dvc/config.local").unlink()  # the one place where it may stand: somebody wrote it there
    assert leaks(finished, home) == []
    for item in ("small", "large"):
        names = set(json.loads((finished / f"names-{item}").read_text()))
        assert telemetry.OFF.keys() <= names
        assert not [name for name in names & PLANTED.keys() if name.startswith(("MLFLOW", "PREFECT"))]


@pytest.mark.integration
def test_a_store_that_does_not_answer_is_named_without_its_password(
    finished: Path, prefect_server: str, planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{CANARY}@127.0.0.1:{free_port()}")
    result = run(finished)
    assert (result.exit, result.synced) == (Exit.DONE, False)
    assert "MLflow at http://me:***@127.0.0.1:" in (finished / ".rlhf/logs/sender.log").read_text()
    (finished / ".dvc/config.local").unlink()
    assert leaks(finished, Path(os.environ["PREFECT_HOME"])) == []
