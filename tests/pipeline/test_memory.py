"""Out of memory: the same work in smaller pieces, in a fresh process, from the last checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf.config.training import LoopConfig
from rlhf.pipeline.events import EVENTS
from rlhf.pipeline.memory import Allowance
from rlhf.tracking.journal import read
from rlhf.tracking.outputs import DvcLock
from rlhf.tracking.runs import stage_facts
from rlhf.training.checkpoint import Checkpoints
from tests.algorithms.tiny import PARAMS, Silent
from tests.conftest import ROOT
from tests.pipeline.hungry import learn


def test_what_goes_through_a_model_at_once_is_halved_then_recomputed() -> None:
    ppo = PARAMS.align.ppo
    allowance, seen = Allowance(), list[tuple[int, int, bool]]()
    while allowance := allowance.less([ppo]):
        fit = allowance.fit(ppo)
        seen.append((fit.loop.micro_batch_size, fit.rollout.batch_size, fit.loop.gradient_checkpointing))
        assert fit.loop.batch_size == ppo.loop.batch_size
    sizes = [(ppo.loop.micro_batch_size // 2**n, ppo.rollout.batch_size // 2**n) for n in range(1, 7)]
    assert seen == [(*size, False) for size in sizes] + [(1, 1, False), (1, 1, True)]


@pytest.mark.integration
def test_a_stage_that_runs_out_goes_on_with_less_and_ends_where_it_would_have(tmp_path: Path) -> None:
    """With the real limit of the kernel. The micro-batch of 64 fits until the fourth step, that of 32 to the end."""
    program = ROOT / "tests/pipeline/hungry.py"
    sft = PARAMS.sft.model_dump(mode="json")
    sft["loop"] |= {"batch_size": 64, "micro_batch_size": 64, "checkpoint_every": 2}
    params = PARAMS.model_dump(mode="json", by_alias=True) | {"sft": sft}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    spec = {"cmd": f"python {program}", "params": ["sft"], "outs": ["models/sft"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"hungry": spec}}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", EVENTS: str(tmp_path / "events")}
    assert subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, timeout=120).returncode == 0
    events = map(json.loads, (tmp_path / "events").read_text().splitlines())
    began, ended = (event["text"] for event in events if event["event"] == "summary")
    assert began.startswith("out of memory (")
    assert began.endswith("It goes on with micro-batches in 2 parts")
    assert ended == "learned; for want of memory with micro-batches in 2 parts"

    (work,) = (tmp_path / ".work").iterdir()
    records = list(read(work / "journal.jsonl"))
    starts = [record for record in records if record["kind"] == "start"]
    tags = [stage_facts(start, None, DvcLock(tmp_path)).tags.get("rlhf.memory") for start in starts]
    assert tags == [None, "micro-batches in 2 parts"]
    assert [record["step"] for record in records if record["kind"] == "metrics"] == [0, 1, 2, 2, 3, 4]
    config = LoopConfig.model_validate(sft["loop"] | {"optimizer": PARAMS.sft.loop.optimizer})
    enough = learn(config, Checkpoints(tmp_path / "enough"), Silent()).state_dict()
    for name, weights in load_file(tmp_path / "models/sft/weights.safetensors").items():
        torch.testing.assert_close(weights, enough[name], rtol=0, atol=1e-6)
