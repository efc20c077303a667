"""MLflow runs of a workspace: one parent a pipeline run, one nested run a stage key, each found again by its tags.

Workspaces that share an experiment, as clones do, have runs of their own: what each did is told by its own journals.
"""

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.locks import hold
from rlhf.tracking.journal import pipeline_journal, read, stage_journal
from rlhf.tracking.lineage import program_name
from rlhf.tracking.outputs import DvcLock, flatten
from rlhf.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

STAGE, PIPELINE, PARENT = "rlhf.stage_key", "rlhf.run_id", "mlflow.parentRunId"
WORKSPACE = "rlhf.workspace"
_DIGEST = 36  # MLflow refuses longer digests of data sets
_NO_DATA = ("models/", "reports/")  # inputs that are not data sets: models have edges of their own
_KEY = 250  # characters of a key
VALUE = 6000  # characters of a param or a tag


@dataclass
class Batch:
    """What one journal has to tell about its run."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # key, value, milliseconds, step
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # {path: sha256} that the stage read
    decision: str | None = None  # digest of the gate's decision, which a pipeline run made


class Runs:
    """The runs of an experiment, by stage key and by pipeline run."""

    def __init__(self, store: Store, workspace: Path) -> None:
        self._store = store
        self._workspace = workspace
        self._me = store.owner
        self._ids: dict[tuple[str, str], str] = {}
        self._elsewhere: dict[tuple[str, str], str] = {}
        found: dict[tuple[str, str], list[Run]] = {}
        for run in _runs(store):
            tags = run.data.tags
            for name in ((tag, tags[tag]) for tag in (STAGE, PIPELINE) if tag in tags):
                if tags.get(WORKSPACE) == self._me:
                    found.setdefault(name, []).append(run)
                else:
                    self._elsewhere[name] = run.info.run_id
        for name, runs in found.items():
            self._ids[name] = self._only(runs)

    def find(self, tag: str, value: str) -> str | None:
        """Id of this workspace's run whose `tag` (STAGE or PIPELINE) has `value`."""
        return self._ids.get((tag, value))

    def anywhere(self, key: str) -> str | None:
        """Id of a run that did the work of a stage key: this workspace's, or else another's."""
        return self._ids.get((STAGE, key)) or self._elsewhere.get((STAGE, key))

    def stage(self, name: str, key: str) -> str:
        """Id of the run of a stage key, made when there is none."""
        return self.find(STAGE, key) or self._make(STAGE, key, name, stage_journal(self._workspace, key))

    def pipeline(self, run: str) -> str:
        """Id of the parent run of pipeline run `run`, made when there is none."""
        return self.find(PIPELINE, run) or self._make(PIPELINE, run, run, pipeline_journal(self._workspace, run))

    def _make(self, tag: str, value: str, name: str, journal: Path) -> str:
        """Make a run that begins when its journal does, unless another process has just made it."""
        start, tags = next(read(journal), None) if journal.exists() else None, {tag: value, WORKSPACE: self._me}
        same = " AND ".join(f"tags.`{name}` = '{text}'" for name, text in tags.items())
        with _making(self._workspace):
            if not (made := list(_runs(self._store, same))):
                time = milliseconds(start["time"]) if start else None
                self._store.client.create_run(self._store.experiment_id, time, tags, name)
                made = list(_runs(self._store, same))
            self._ids[tag, value] = self._only(made)
        return self._ids[tag, value]

    def _only(self, runs: "Sequence[Run]") -> str:
        """Id of the one run among those of one tag; the others, which a request that came twice made, are deleted.

        The fullest is kept, because nothing is ever written to the others.
        """
        kept, *others = sorted(runs, key=lambda run: (-len(run.data.tags) - len(run.data.params), run.info.run_id))
        for other in others:
            self._store.client.delete_run(other.info.run_id)
        return kept.info.run_id


def log(store: Store, run_id: str, batch: Batch, lock: DvcLock) -> None:
    """Write a batch to a run. Writing the same batch again changes nothing."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key_name(key), str(value)[:VALUE]) for key, value in batch.params.items()]
    tags = [RunTag(key_name(key), value[:VALUE]) for key, value in batch.tags.items()]
    metrics = [Metric(key, value, time, step) for key, value, time, step in batch.metrics]
    for some in _chunks(params, 100):
        store.client.log_batch(run_id, params=some)
    for some in _chunks(tags, 100):
        store.client.log_batch(run_id, tags=some)
    for some in _chunks(metrics, 1000):
        store.client.log_batch(run_id, metrics=some)
    data = {path: digest for path, digest in batch.inputs.items() if not path.startswith(_NO_DATA)}
    if data:
        store.client.log_inputs(run_id, [_dataset(path, digest, lock) for path, digest in data.items()])


def stage_facts(record: Mapping[str, Any], commit: str | None, lock: DvcLock) -> Batch:
    """Params, tags and inputs of a stage, from its receipt or the start record of its journal."""
    tags = {STAGE: record["key"], "dvc.stage": record["stage"], "rlhf.code": record.get("code"), "git.commit": commit}
    tags |= {f"rlhf.{name}": record.get(name) for name in ("memory", "machine")}
    tags["rlhf.program"] = program_name(record.get("program"))
    for path, digest in record["inputs"].items():
        tags[f"dvc.md5.{path}"] = lock.digest(path, digest)
    return Batch(
        params=dict(flatten(record["params"])),
        tags={name: value for name, value in tags.items() if value},
        inputs=dict(record["inputs"]),
    )


def link_models(store: Store, run_id: str, inputs: Sequence[str], outputs: Sequence[str] = ()) -> None:
    """Draw the edges between a run and the logged models that it read and made, each once."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput
    from mlflow.exceptions import MlflowException

    def missing() -> tuple[list[str], list[str]]:
        run = store.client.get_run(run_id)  # MLflow refuses an edge that is there already
        known_inputs = {model.model_id for model in run.inputs.model_inputs} if run.inputs else set()
        known_outputs = {model.model_id for model in run.outputs.model_outputs} if run.outputs else set()
        return [one for one in inputs if one not in known_inputs], [one for one in outputs if one not in known_outputs]

    new_inputs, new_outputs = missing()
    try:
        if new_inputs:
            store.client.log_inputs(run_id, models=[LoggedModelInput(model) for model in new_inputs])
        if new_outputs:
            store.client.log_outputs(run_id, [LoggedModelOutput(model, step=0) for model in new_outputs])
    except MlflowException:
        if missing() == (new_inputs, new_outputs):
            raise
        link_models(store, run_id, inputs, outputs)  # a request had come through, and was refused when it came again


def stored_metrics(store: Store, run_id: str) -> set[tuple[str, int]]:
    """(key, step) of every metric that a run holds."""
    keys = store.client.get_run(run_id).data.metrics
    return {(key, point.step) for key in keys for point in store.client.get_metric_history(run_id, key)}


def milliseconds(time: float) -> int:
    """MLflow's time stamp of seconds since 1970; it refuses what is before, which a clock may say."""
    return max(0, round(time * 1000))


def key_name(name: str) -> str:
    """`name` without what MLflow refuses in keys, which must also be paths: align@dpo becomes align.dpo, ../x _.._x."""
    key = re.sub(r"[^\w./ :-]", ".", name)[:_KEY]
    return key if posixpath.normpath(key) == key and key[0] not in "./" else f"_{key.replace('/', '_')}"[:_KEY]


def _making(workspace: Path) -> AbstractContextManager[None]:
    """Held by the one process that looks whether a run is there and then makes it."""
    return hold(workspace / ".rlhf/runs.lock", f"The list of runs of {workspace} in MLflow", 60.0)


def _runs(store: Store, condition: str = "") -> "Iterator[Run]":
    token = None
    while True:
        page = store.client.search_runs([store.experiment_id], condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _dataset(path: str, digest: str, lock: DvcLock) -> Any:
    """A data set as MLflow shows it: its digest is that of the manifest, cut; the whole one is in its source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"path": path, "sha256": digest, "dvc_md5": lock.digest(path, digest)}
    dataset = Dataset(path, digest[:_DIGEST], "local", json.dumps({"uri": path, **source}))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "input")])


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
