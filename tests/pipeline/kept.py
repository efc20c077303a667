"""A toy workspace that has run, with one of every kind of file that a workspace keeps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from torch import nn

from rlhf.gate.ledger import Ledger
from rlhf.judges.endpoint import _keep
from rlhf.manifest import write_manifest
from rlhf.models.cached import cached
from rlhf.pipeline import champion
from rlhf.tracking import standing
from rlhf.tracking.champions import FILES
from rlhf.tracking.journal import Journal
from rlhf.tracking.sent import Confirmed, load_sent
from rlhf.training.checkpoint import Checkpoints

REPLY = ".work/judge/ab/abcd.json"
TENSORS = ".work/cache/tensors.safetensors"
WORK = ".work/trained"
RUN = ".rlhf/runs/run-1.jsonl"
VALUES = {"x": torch.arange(3000.0)}


def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
    """What a checkpoint is of: the same every time."""
    torch.manual_seed(0)
    module = nn.Linear(40, 40)
    return module, torch.optim.AdamW(module.parameters(), lr=0.1)


def fill(workspace: Path) -> None:
    """Add to a toy workspace that has run what only training, judging and promoting leave."""
    output = workspace / "models/other"
    output.mkdir()
    save_file({"weights": np.arange(2000.0)}, output / "model.safetensors")
    pd.DataFrame({"text": ["a", "b"] * 500}).to_parquet(output / "rows.parquet")
    (output / "report.json").write_text(json.dumps({"numbers": list(range(2000))}))
    shutil.copy(workspace / "models/small/receipt.json", output)
    policy = write_manifest(output)

    module, optimizer = learner()
    for step in (1, 2):
        module(torch.ones(1, 40)).sum().backward()
        optimizer.step()
        Checkpoints(workspace / WORK).save(step, module, optimizer, [{"step": step}])
    cached(workspace / TENSORS, lambda: VALUES)
    _keep(workspace / REPLY, "A, since it is kinder. " * 100)
    with Journal(workspace / RUN) as journal:
        for step in range(60):
            journal.write("metrics", step=step, values={"loss": 1 / (step + 1)}, time=1000.0 + step)

    shutil.copytree(output, workspace / FILES / policy)
    decision = standing.standing(workspace)
    assert decision
    standing.keep(workspace, decision)
    book = Ledger.of(workspace)
    book.promote("key-a", "aa" * 32, "policy/1", "report-a", 0)
    book.promote("key-b", policy, "policy/2", "report-b", 1, "ada")
    book.record(decision.digest, "prompts", ["aa" * 32, policy], "PROMOTE")
    champion.refresh(workspace, {"gate"})
    sent = load_sent(workspace)
    sent.journals[RUN] = Confirmed("run", "first", 1234, "FINISHED", ["d1"])
    sent.save()
