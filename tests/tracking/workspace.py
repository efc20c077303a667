"""A workspace whose stages have run, made of small files: outputs with receipts and manifests, journals, dvc.lock."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from rlhf.batching.encoding import encode_prompts
from rlhf.evaluation.serving import greedy
from rlhf.gate.ledger import Ledger
from rlhf.gate.records import DECISION, Check, Verdict
from rlhf.manifest import digest as digest_of
from rlhf.manifest import write_manifest
from rlhf.models.loading import save_model
from rlhf.tracking.journal import Journal
from tests import decisions
from tests.algorithms.tiny import WORDS, talkative_policy, tiny_tokenizer

TIME = 1_760_000_000.0  # of the first record; each journal of a stage begins 100 s after the one before
STEPS = 5
TRAINER = "trainer@here"
LIMIT = 40  # of the gate

SOURCE = "sources/rows.jsonl"  # a file that is nobody's output
GRAPH = {
    "collect": ("data/raw", [SOURCE]),
    "validate": ("data/clean", ["data/raw"]),
    "base": ("models/base", ["data/clean"]),
    "sft": ("models/sft", ["data/clean", "models/base"]),
    "sample": ("data/samples", ["data/clean", "models/sft"]),
    "label": ("data/judgements", ["data/clean", "data/samples"]),
    "reward@overall": ("models/reward/overall", ["data/judgements", "models/sft"]),
    "align@dpo": ("models/policy/dpo", ["data/clean", "data/judgements", "models/sft", "models/reward/overall"]),
}
SOURCES = [{"kind": "world"}, {"kind": "file", "path": SOURCE, "table": "prompts"}]
PROBES = [[{"role": "user", "content": word}] for word in WORDS[:3]]
HOSTILE = {"use_case": {"../../x": 3}}  # a metric whose key data wrote
TOKENS = 8  # of an answer to them
MODEL_STAGES = ["base", "sft", "reward@overall", "align@dpo"]


@dataclass
class Workspace:
    """What was made, for tests to compare with."""

    path: Path
    keys: dict[str, str]  # by stage
    digests: dict[str, str]  # by path of an output

    def journal(self, stage: str) -> Path:
        return self.path / ".work" / self.keys[stage] / "journal.jsonl"


def make_workspace(path: Path, beta: float = 0.1, run: str = "run-1") -> Workspace:
    """Run every stage of GRAPH, in appearance. Another `beta` gives align@dpo another key and other weights."""
    made = Workspace(path, {}, {SOURCE: hashlib.sha256(b"{}\n").hexdigest()})
    (path / "sources").mkdir(parents=True, exist_ok=True)
    (path / SOURCE).write_bytes(b"{}\n")
    (path / ".rlhf").mkdir(mode=0o700, exist_ok=True)
    lock: dict[str, Any] = {}
    for position, (stage, (output, inputs)) in enumerate(GRAPH.items()):
        params: dict[str, Any] = {"seed": 0}
        params |= {"collect": {"sources": SOURCES}} if stage == "collect" else {}
        params |= {"align.dpo": {"beta": beta, "epochs": 1.0}} if stage == "align@dpo" else {}
        digests = {name: made.digests[name] for name in inputs}
        parts = {"stage": stage, "code": "c0de", "params": params, "inputs": digests}
        made.keys[stage] = key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        receipt = {**parts, "key": key, "versions": {"python": "3.11"}}
        made.digests[output] = write_output(path / output, receipt)
        start = {**receipt, "git": {"commit": "abc123", "dirty": True}, "host": "here", "pipeline_run": run}
        start |= {"user": TRAINER, "program": {"version": "0.1.0", "git": {"commit": "def456", "dirty": False}}}
        write_journal(made.journal(stage), start, TIME + 100 * position)
        deps = [{"path": name, "md5": hashlib.md5(name.encode()).hexdigest()} for name in inputs if name == SOURCE]
        lock[stage] = {
            "deps": deps,
            "outs": [{"path": output, "md5": hashlib.md5(output.encode()).hexdigest() + ".dir"}],
        }
    (path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    write_pipeline_journal(made, run)
    return made


def write_output(directory: Path, receipt: dict[str, Any]) -> str:
    """An output directory of a few bytes that depend on the stage key; return its digest. A policy's can be served."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = np.frombuffer(receipt["key"].encode(), dtype=np.uint8)
    save_file({"weights": weights.copy()}, directory / "model.safetensors")
    if receipt["stage"].startswith("align"):
        for name, content in policy_files().items():
            (directory / name).write_bytes(content)
    (directory / "receipt.json").write_text(json.dumps(receipt))
    return write_manifest(directory)


@cache
def policy_files() -> dict[str, bytes]:
    """A model that talks, by file name."""
    with TemporaryDirectory() as directory:
        place = Path(directory, "model")
        save_model(talkative_policy(), tiny_tokenizer(), place, title="Tiny", summary="Random weights.")
        return {path.name: path.read_bytes() for path in place.iterdir()}


@cache
def policy_answers() -> list[list[int]]:
    """What it says to PROBES."""
    tokenizer = tiny_tokenizer()
    asked = [ids.tolist() for ids in encode_prompts(tokenizer, PROBES)]
    return greedy(talkative_policy(), asked, max_tokens=TOKENS, eos=tokenizer.eos_token_id)


def write_journal(path: Path, start: dict[str, Any], time: float) -> None:
    with Journal(path) as journal:
        journal.write("start", **start, time=time)
        write_steps(journal, range(STEPS), time)
        journal.write(
            "metrics_final",
            values={"accuracy": {"value": 0.75, "pairs": 40}, "note": "text", **HOSTILE},
            time=time + 50,
        )
        journal.write("end", status="done", seconds=60.0, time=time + 60)


def write_steps(journal: Journal, steps: range, time: float) -> None:
    for step in steps:
        journal.write("metrics", step=step, values={"loss": 1.0 / (step + 1), "kl": 0.1 * step}, time=time + step)


def write_pipeline_journal(made: Workspace, run: str, state: str = "completed", said: str = "it is done") -> None:
    with Journal(made.path / ".rlhf/runs" / f"{run}.jsonl") as journal:
        git = {"commit": "abc123", "dirty": False}
        journal.write("start", run_id=run, params={"seed": 0, "gate": {"confidence": 0.95}}, git=git, time=TIME)
        for stage, key in made.keys.items():
            journal.write("stage", name=stage, key=key, state=state, message=said, time=TIME + 900)
        journal.write("end", status="completed", time=TIME + 1000)


def write_decision(
    made: Workspace, decision: Verdict = "PROMOTE", winner: str = "dpo", answers: list[list[int]] | None = None
) -> None:
    """The gate's decision about a policy against the champion in use, and the evaluation it rests on; its `answers` are
    those of the policy's files, where no others are given."""
    digest = made.digests[f"models/policy/{winner}"]
    written: dict[str, dict[str, Any]] = {
        f"reports/evaluate/{winner}/metrics.json": {"policy_digest": digest, "prompts_digest": "prompts"},
        f"reports/evaluate/{winner}/rows/serving.json": {
            "prompts": PROBES,
            "answers": answers or policy_answers(),
            "max_tokens": TOKENS,
            "timeout": 120,
        },
    }
    for name, value in written.items():
        (made.path / name).parent.mkdir(parents=True, exist_ok=True)
        (made.path / name).write_text(json.dumps(value))
    champion, done = Ledger.of(made.path).current(), decision == "PROMOTE"
    said = decisions.made_of(
        decision,
        f"{winner}: {decision}.",
        {winner: digest},
        Check(name="win_rate", group="quality", outcome="pass", reason="0.8 > 0.5"),
        Check(name="kl", group="sanity", outcome="pass" if done else "fail", reason="52 nats, at most 40"),
        champion=champion.policy if champion else None,
        generation=champion.generation if champion else 0,
        test_set="prompts",
        looks=(digest,),
        inputs={"reports/evaluate": digest_of(made.path / "reports/evaluate")},
    )
    file = decisions.write(made.path, said)
    outs = [{"path": DECISION, "md5": hashlib.md5(file.read_bytes()).hexdigest()}]
    lock = yaml.safe_load((made.path / "dvc.lock").read_text())
    lock["stages"] |= {"gate": {"outs": outs, "params": {"params.yaml": {"gate.limit": LIMIT}}}}
    (made.path / "dvc.lock").write_text(yaml.safe_dump(lock))
    write_params(made.path)


def write_params(path: Path, limit: int = LIMIT, **promotion: Any) -> None:
    """params.yaml with the sections that a promotion looks at."""
    rules = {"approval": "none", "approvers": None, "expires_days": 7.0} | promotion
    (path / "params.yaml").write_text(yaml.safe_dump({"gate": {"limit": limit}, "promotion": rules}))


def add_policy(made: Workspace, name: str) -> None:
    """Another policy beside dpo, made from the same."""
    key = hashlib.sha256(name.encode()).hexdigest()
    receipt = json.loads((made.path / "models/policy/dpo/receipt.json").read_text())
    receipt |= {"stage": f"align@{name}", "key": key}
    made.keys[f"align@{name}"] = key
    made.digests[f"models/policy/{name}"] = write_output(made.path / "models/policy" / name, receipt)
    write_journal(made.journal(f"align@{name}"), {**receipt, "pipeline_run": None, "user": TRAINER}, TIME)
