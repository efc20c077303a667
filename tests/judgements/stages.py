"""Stages that train and evaluate, in this process, over judgements by criteria that disagree."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaModel

from tests.conftest import run_here

PREFERRED = {"helpful": "one", "harmless": "two"}
STATEMENTS = ["one is red.", "one is blue."]
WEIGHTS = {"helpful": 1.0, "harmless": 2.0}
SETTINGS = {
    "reward.criteria": "{helpful: 1.0, harmless: 2.0}",
    "reward.combine": "standardized",
    "reward.loop.micro_batch_size": "4",
    "align.algorithms": "[grpo, kto]",
    "align.snapshots": "0",
    "align.grpo.iterations": "1",
    "align.grpo.epochs": "1",
    "align.grpo.rollout.prompts": "4",
    "align.grpo.rollout.answers": "2",
    "align.grpo.loop.batch_size": "8",
    "align.grpo.loop.micro_batch_size": "3",
    "tokens.prompt": "24",
    "tokens.response": "6",
    "evaluate.prompts": "4",
    "evaluate.truth": "none",
    "evaluate.judge.kind": "reward",
    "evaluate.serving.timeout": "0.01",
    "gate.bootstrap": "100",
}


def judgements() -> list[dict[str, Any]]:
    """Rankings of the same answers, by criteria that disagree."""
    return [
        {
            "prompt": [{"role": "user", "content": f"red {number}"}],
            "responses": list(PREFERRED.values()),
            "ranks": [1 + (answer != best) for answer in PREFERRED.values()],
            "criterion": criterion,
            "group": "",
            "split": split,
        }
        for criterion, best in PREFERRED.items()
        for split in ("train", "test", "referee")
        for number in range(4)
    ]


def run(workspace: Path, name: str, program: ModuleType) -> dict[str, Any]:
    """Run a stage; its metrics."""
    spec = run_here(workspace, name, program)
    return json.loads((workspace / spec.metrics[0]).read_text())


def write(workspace: Path, table: str, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), workspace / "data/judgements" / f"{table}.parquet")


@contextmanager
def forward_passes() -> Iterator[list[str]]:
    """Of any model, while the body runs."""
    passes = list[str]()
    hook = register_module_forward_hook(
        lambda module, given, made: passes.append(type(module).__name__) if isinstance(module, LlamaModel) else None
    )
    try:
        yield passes
    finally:
        hook.remove()
