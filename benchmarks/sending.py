"""What talks to MLflow, to be let die by benchmarks/faults.py: the sender, and a promotion.

They work on a workspace of small files whose stages have run in appearance, and a SQLite store.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.crash import Work, forked
from rlhf.errors import Exit
from rlhf.gate.ledger import Ledger
from rlhf.tracking import champions
from rlhf.tracking.store import Store, connect
from tests.tracking.workspace import make_workspace, write_decision

MEANT = "meant.json"  # beside a workspace


def works(root: Path) -> Iterator[Work]:
    """One after the other, in `root`/workspace, which is made when the first is asked for."""
    load_mlflow()
    workspace = root / "workspace"
    made = make_workspace(workspace)
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    for stage in set(made.keys) - {"sft", "align@dpo"}:  # these two have everything that there is to send
        shutil.rmtree(made.journal(stage).parent)
    for output in ("models/base", "models/reward"):
        shutil.rmtree(workspace / output)
    write_decision(made)
    once(root, lambda: connect(workspace), workspace)  # the tables of MLflow take seconds to make
    yield Work("rlhf sync", command("sync"), meaning=recorded)
    yield Work("rlhf promote", command("promote"), meaning=recorded)


def command(name: str) -> Any:
    """`rlhf NAME` in the workspace."""

    def run() -> None:
        from rlhf.cli import app

        app([name], prog_name="rlhf")

    return run


def once(root: Path, run: Any, workspace: Path) -> None:
    """In a process of its own, since what has used MLflow must not be forked. Raises RuntimeError when it fails."""
    code = forked(lambda: run() and None, workspace, root / "said", "")
    if code != Exit.DONE:
        raise RuntimeError((root / "said").read_text())


def recorded(workspace: Path) -> dict[str, str]:
    """What the store and the ledger say of a workspace, by name, as JSON."""
    file = workspace.parent / MEANT
    once(workspace.parent, lambda: file.write_text(json.dumps(said(workspace, connect(workspace)))), workspace)
    return json.loads(file.read_text())


def said(workspace: Path, store: Store) -> dict[str, str]:
    """Every run with each point of its metrics, every model and version, aliases, champions and their files.

    MLflow draws ids by lot: names stand in their place.
    """
    client, found, ids = store.client, dict[str, list[Any]](), dict[str, str]()
    for run in client.search_runs([store.experiment_id]):
        name, number, data = f"run {run.info.run_name}", run.info.run_id, run.data
        ids |= {number: name, number[:8]: name}
        points = [point for key in data.metrics for point in client.get_metric_history(number, key)]
        found.setdefault(f"metrics of {name}", []).extend(sorted((p.key, p.step, p.value, p.timestamp) for p in points))
        found.setdefault(name, []).append([run.info.status, run.info.start_time, run.info.end_time])
        read, wrote = run.inputs, run.outputs
        assert read is not None, name
        assert wrote is not None, name
        found[name] += [data.params, data.tags, sorted(one.dataset.name for one in read.dataset_inputs)]
        found[name] += [sorted(edge.model_id for edge in read.model_inputs)]
        found[name] += [sorted(edge.model_id for edge in wrote.model_outputs)]
    for model in client.search_logged_models([store.experiment_id]):
        ids[model.model_id] = f"model {model.name}"
        found.setdefault(ids[model.model_id], []).append([str(model.status), model.source_run_id, model.tags])
    for version in client.search_model_versions():
        text = [version.version, version.run_id, version.tags, version.description]
        found.setdefault(f"version {version.name}", []).append(text)
    for registered in client.search_registered_models():
        found[f"aliases {registered.name}"] = [registered.aliases]
    for one in Ledger.of(workspace).history():
        found[f"generation {one.generation}"] = [one.action, one.candidate_key, one.policy, one.version]
    kept = (workspace / champions.FILES).glob("*")
    found["champions"] = sorted(path.name for path in kept if champions.whole(workspace, path.name))
    texts = {name: json.dumps(value, sort_keys=True) for name, value in found.items()}
    for number in sorted(ids, key=len, reverse=True):
        texts = {name: text.replace(number, ids[number]) for name, text in texts.items()}
    return texts


def load_mlflow() -> None:
    """Load for all forks what each would load by itself; no thread is started.

    SQLite need not see every commit on the disk: what dies here is a process, not the machine.
    """
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    for module in ("tracking.fluent", "store.tracking.sqlalchemy_store", "store.model_registry.sqlalchemy_store"):
        import_module(f"mlflow.{module}")
    from sqlalchemy import Engine, event

    def hasten(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hasten)
