"""From the records of journals to MLflow runs, so that sending again, at any point, changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.text import markdown
from rlhf.tracking.journal import HEAD, JOURNAL, alive, read_from
from rlhf.tracking.lineage import commit_name
from rlhf.tracking.outputs import DvcLock, flatten
from rlhf.tracking.runs import (
    PARENT,
    PIPELINE,
    STAGE,
    Batch,
    Runs,
    key_name,
    link_models,
    log,
    milliseconds,
    stage_facts,
    stored_metrics,
)
from rlhf.tracking.sent import Confirmed, Sent
from rlhf.tracking.standing import DECISIONS, is_kept
from rlhf.tracking.store import Store, registering

# How journals say it ended, stages and flows, in MLflow's words.
_STATUS = {"done": "FINISHED", "completed": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass
class Tail:
    """One journal as far as it has been read."""

    path: Path
    name: str  # path in the workspace
    offset: int = 0
    start: Mapping[str, Any] | None = None  # of the last attempt
    end: Mapping[str, Any] | None = None  # of the last attempt
    time: float = 0.0  # of the last record
    stages: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # last "stage" record of each, in a pipeline run
    seen: set[tuple[str, int]] = field(default_factory=set)  # metrics: an attempt that resumes repeats some steps

    @property
    def first(self) -> str:
        """Checksum of the first record, which holds a time: it tells a journal from a later one with its name."""
        with open(self.path, "rb") as file:
            return file.read(HEAD).decode(errors="replace")

    def news(self, confirmed: int) -> Batch | None:
        """Read on; return what was written after byte `confirmed`, None when there is nothing."""
        batch, before = Batch(), self.offset
        for record, offset in read_from(self.path, before):
            self._take(record, batch if offset > confirmed else Batch())
            self.offset = offset
        return batch if self.offset > max(before, confirmed) else None

    def status(self) -> str:
        """MLflow's word for how it stands. A journal without an end and without a writer was killed."""
        if self.end:
            return _STATUS[self.end["status"]]
        return "RUNNING" if alive(self.path) else "KILLED"

    def _take(self, record: Mapping[str, Any], batch: Batch) -> None:
        self.time = record["time"]
        match record["kind"]:
            case "start":
                self.start, self.end = record, None
            case "end":
                self.end = record
            case "metrics":
                self._metrics("train/", record, record["step"], batch)
            case "metrics_final":
                self._metrics("", record, 0, batch)
            case "output":
                batch.tags[f"output.{record['path']}"] = record["digest"]
            case "promotion":
                batch.tags["rlhf.promotion"] = json.dumps(record)
            case "decision":
                batch.decision = record["digest"]
            case "stage":
                self.stages[record["name"]] = record

    def _metrics(self, prefix: str, record: Mapping[str, Any], step: int, batch: Batch) -> None:
        for name, value in flatten(record["values"]):
            key = (key_name(prefix + name), step)
            if isinstance(value, int | float) and not isinstance(value, bool) and key not in self.seen:
                self.seen.add(key)
                batch.metrics.append((key[0], float(value), milliseconds(record["time"]), step))


class Sender:
    """Sends what journals hold to one store; remembers in memory what it has read, and in `Sent` what was confirmed."""

    def __init__(self, workspace: Path, store: Store, sent: Sent) -> None:
        self.workspace, self.store, self.sent = workspace, store, sent
        self.runs = Runs(store, workspace)
        self.tails: dict[str, Tail] = {}

    def send(self, path: Path) -> None:
        """Bring the run of one journal up to date. Raises DataError for a damaged journal, or what tells of its inputs.

        What was read and not sent, whatever is in the way, is read again the next time.
        """
        name = path.relative_to(self.workspace).as_posix()
        tail = self.tails.pop(name, None) or Tail(path, name)
        self._send(tail)
        self.tails[name] = tail

    def _send(self, tail: Tail) -> None:
        confirmed = self._confirmed(tail)
        batch = tail.news(confirmed.offset)
        if tail.start is None:
            return
        run_id = confirmed.run or self._run(tail.start)
        if batch:
            lock = DvcLock(self.workspace)
            self._describe(tail, batch, lock)
            log(self.store, run_id, batch, lock)
            if batch.decision:
                self._log_decision(run_id, batch.decision)
        status = tail.status()
        if status != confirmed.status:
            self._set_status(run_id, status, tail.time)
        if batch or status != confirmed.status:
            self.sent.journals[tail.name] = Confirmed(run_id, tail.first, tail.offset, status, confirmed.linked)
            self.sent.save()

    def remember(self, versions: Mapping[str, str]) -> None:
        """Keep which stage keys have been registered as which versions, for those who ask without a server."""
        if not versions.items() <= self.sent.versions.items():
            self.sent.versions |= versions
            self.sent.save()

    def link(self, models: Mapping[str, str]) -> None:
        """Draw the edges from models to the runs that read them. `models`: {digest of the manifest: logged model}."""
        for name, tail in self.tails.items():
            confirmed = self.sent.journals.get(name)
            inputs = (tail.start or {}).get("inputs", {}).values()
            new = [digest for digest in inputs if digest in models and confirmed and digest not in confirmed.linked]
            if confirmed and new:
                with registering(self.workspace):
                    link_models(self.store, confirmed.run, inputs=[models[digest] for digest in new])
                confirmed.linked += new
                self.sent.save()

    def _confirmed(self, tail: Tail) -> Confirmed:
        """What the store has of a journal: nothing if the run is gone from it, or if the journal is a new one.

        A run that another journal of the same stage key filled has its metrics already: they are not sent again.
        """
        stage = tail.path.name == JOURNAL
        run = self.runs.find(STAGE, tail.path.parent.name) if stage else self.runs.find(PIPELINE, tail.path.stem)
        entry = self.sent.journals.get(tail.name)
        if entry and run == entry.run and tail.first == entry.first:
            return entry
        if run and not tail.offset:
            tail.seen |= stored_metrics(self.store, run)
        return Confirmed(run or "", tail.first)

    def _run(self, start: Mapping[str, Any]) -> str:
        if "key" in start:
            return self.runs.stage(start["stage"], start["key"])
        return self.runs.pipeline(start["run_id"])

    def _describe(self, tail: Tail, batch: Batch, lock: DvcLock) -> None:
        """Add what the last start record says, and for a pipeline run the table of its stages."""
        start = tail.start or {}
        commit = commit_name(start.get("git"))
        if "key" in start:
            facts = stage_facts(start, commit, lock)
            batch.params, batch.inputs = facts.params, facts.inputs
            batch.tags |= facts.tags
            if start.get("pipeline_run"):
                batch.tags[PARENT] = self.runs.pipeline(start["pipeline_run"])
            return
        batch.params = dict(flatten(start.get("params") or {}))
        origin = {"git.commit": commit, "prefect.flow_run": start.get("flow_run")}
        batch.tags |= {name: str(value) for name, value in origin.items() if value}
        batch.tags |= self._stage_table(tail.stages)

    def _log_decision(self, run_id: str, digest: str) -> None:
        """Store what the gate said, and its pages, with the run that it decided in."""
        kept = self.workspace / DECISIONS / digest
        if is_kept(kept):
            self.store.client.log_artifacts(run_id, str(kept), "gate")

    def _stage_table(self, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """A tag for each stage, and all of them as the run's description, with links to the runs that did the work."""
        tags, rows = {}, ["| stage | state | run | |", "|---|---|---|---|"]
        for name, record in stages.items():
            run = self.runs.anywhere(record.get("key") or "")
            link = f"[{run[:8]}]({self.store.link(run)})" if run else ""
            tags[f"stage.{name}"] = f"{record['state']} {run or ''}".strip()
            rows.append(f"| {markdown(name)} | {record['state']} | {link} | {markdown(record.get('message') or '')} |")
        return {**tags, "mlflow.note.content": "\n".join(rows)} if stages else {}

    def _set_status(self, run_id: str, status: str, time: float) -> None:
        if status == "RUNNING":
            self.store.client.update_run(run_id, status)
        else:
            self.store.client.set_terminated(run_id, status, milliseconds(time))
