"""A workspace of models that learn next to nothing, and one in which people were polled."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.config.editing import set_params
from rlhf.manifest import write_manifest
from rlhf.models.loading import save_model, scalar_model_from
from tests.algorithms.tiny import tiny_policy, tiny_tokenizer
from tests.conftest import copy_pipeline
from tests.judgements.stages import PREFERRED, SETTINGS, STATEMENTS, judgements, write


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the stages before the reward models leave, and a reward model of another run."""
    copy_pipeline(tmp_path)
    set_params(tmp_path / "params.yaml", [f"{key}={value}" for key, value in SETTINGS.items()])
    for path in ("models/sft", "models/reward/overall", "models/referee"):
        model = tiny_policy() if path == "models/sft" else scalar_model_from(tmp_path / "models/sft", seed=0)
        save_model(model, tiny_tokenizer(), tmp_path / path, title="tiny", summary="A test.")
        (tmp_path / path / "receipt.json").write_text(
            json.dumps({"stage": path, "key": path, "inputs": {}, "params": {}})
        )
        write_manifest(tmp_path / path)
    rows = judgements()
    thumbs = [
        {name: row[name] for name in ("prompt", "criterion", "split")} | {"response": answer, "thumb": rank == 1}
        for row in rows
        for answer, rank in zip(row["responses"], row["ranks"], strict=True)
    ]
    prompts = [
        {"id": str(n), "use_case": "", "kind": "user", "seen": 0.0, **{key: row[key] for key in ("prompt", "split")}}
        for n, row in enumerate(rows)
    ]
    for name, content in {"judgements/rankings": rows, "judgements/thumbs": thumbs, "clean/prompts": prompts}.items():
        table = tmp_path / "data" / f"{name}.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(content), table)
    (tmp_path / "reports").mkdir()
    found = {"criteria": {criterion: {"bayes_accuracy": 0.9} for criterion in PREFERRED}}
    (tmp_path / "reports/label.json").write_text(json.dumps(found))
    return tmp_path


@pytest.fixture
def polled(workspace: Path) -> Path:
    """The rarer belief is preferred, and every prompt but two has a poll."""
    set_params(
        workspace / "params.yaml",
        ["align.algorithms=[gdpo_belief]", "reward.criteria={overall: 1.0}", "tokens.response=24"],
    )
    rows = [row | {"criterion": "overall", "responses": STATEMENTS[::-1]} for row in judgements()[:8]]
    write(workspace, "rankings", [row | {"ranks": [1, 2]} for row in rows])
    polls = [{"id": str(n), "statements": STATEMENTS, "votes": [3, 1], "group": ""} for n in range(len(rows))]
    polls = [poll | {name: row[name] for name in ("prompt", "split")} for poll, row in zip(polls, rows, strict=True)]
    write(workspace, "beliefs", [*polls[:2], *polls[4:]])
    return workspace
