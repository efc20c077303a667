"""The default example from an empty directory to the gate, shortened: every stage for real, by the user's command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = {
    "world.demonstrations": 500,
    "world.prompts": 700,
    "world.texts": 300,
    "world.comparisons": 60,
    "world.ratings": 60,
    "world.thumbs": 60,
    "world.rankings": 60,
    "base.model.epochs": 0.5,
    "base.model.hidden_size": 32,
    "sft.epochs": 1.0,
    "sample.prompts": 300,
    "reward.epochs": 1.0,
    "align.ppo.iterations": 2,
    "align.ppo.rollout.prompts": 64,
    "align.dpo.epochs": 1.0,
    "evaluate.prompts": 60,
    "gate.bootstrap": 200,
}
STAGES = 12


def rlhf(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "RLHF_"))}
    command = [sys.executable, "-m", "rlhf", *arguments]
    return subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.integration
@pytest.mark.slow
def test_the_small_world_runs_from_feedback_to_the_gate(tmp_path: Path) -> None:
    made = rlhf(tmp_path, "init", "world", "--example", "small-world")
    assert made.returncode == 0, made.stderr
    workspace = tmp_path / "world"
    settings = [word for key, value in SHORT.items() for word in ("-S", f"{key}={value}")]
    try:
        first = rlhf(workspace, "run", *settings)
        assert first.returncode == 0, first.stdout + first.stderr
        assert "Traceback" not in first.stdout + first.stderr
        assert first.stdout.count("✓") >= STAGES

        decision = json.loads((workspace / "reports/gate/decision.json").read_text())
        assert decision["decision"] in {"PROMOTE", "REJECT", "INCONCLUSIVE"}
        assert set(decision["candidates"]) == {"ppo", "dpo"}
        assert (workspace / "reports/report.html").stat().st_size > 10_000

        second = rlhf(workspace, "run")
        assert second.returncode == 0, second.stdout + second.stderr
        assert second.stdout.count("up to date") == STAGES

        tree = json.loads(rlhf(workspace, "lineage", "dpo", "--json").stdout)
        assert tree["stage"] == "align@dpo"
        assert {"models/sft", "models/reward", "data/judgements"} <= {child["name"] for child in tree["children"]}
    finally:
        assert rlhf(workspace, "down").returncode == 0
