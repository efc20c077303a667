"""Evidence about a policy that deserves promotion, for tests to spoil."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.config import load_config
from rlhf.config.gate import GateConfig
from rlhf.gate.evidence import Evidence
from rlhf.gate.statistics import win_points

ROOT = Path(__file__).parents[2]
PROMPTS = 400
REWARD = {
    "accuracy": {"value": 0.75, "low": 0.72, "high": 0.78, "pairs": 900},
    "ece": 0.03,
    "length_spearman": -0.1,
}
JUDGING = {
    "asked": "both orders",
    "nulls": {"sft": {"count": 0, "n": PROMPTS}, "champion": {"count": 0, "n": PROMPTS}},
    "consistency": {"value": 0.85, "low": 0.82, "high": 0.88, "n": PROMPTS},
    "primacy": {"value": 0.02, "low": -0.01, "high": 0.05, "n": PROMPTS},
    "agreement": {"value": 0.8, "low": 0.75, "high": 0.85, "n": 250, "pairs": PROMPTS},
    "a_a": {"value": 0.51, "low": 0.47, "high": 0.55, "wins": 140, "ties": 128, "losses": 132},
}


@pytest.fixture(scope="session")
def thresholds() -> GateConfig:
    """The gate's section of the repository's params.yaml, with intervals of fewer resamples."""
    return load_config(ROOT / "params.yaml").gate.model_copy(update={"bootstrap": 500})


def made_rows(n: int = PROMPTS, *, gain: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Rows of n prompts on which the policy's scores are higher than SFT's by `gain` standard deviations on average."""
    random = np.random.default_rng(seed)
    sft, policy, champion = (random.normal(mean, 1, n) for mean in (0, gain, 0))
    return {
        "prompt_id": np.array([f"p{index:04}" for index in range(n)]),
        "use_case": np.array(["chat", "rewrite", "generation", "extraction"])[np.arange(n) % 4],
        "points_sft": win_points(policy, sft),
        "points_champion": win_points(policy, champion),
        "sft_gold": sft,
        "policy_gold": policy,
        "sft_reward": sft + 0.1,
        "policy_reward": policy + 0.2,
        "kl": random.normal(12.0, 3.0, n),
        "sft_length": random.integers(15, 25, n),
        "policy_length": random.integers(16, 26, n),
        "sft_terminated": np.ones(n, dtype=bool),
        "policy_terminated": np.ones(n, dtype=bool),
    }


def made_evidence(rows: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    """Evidence that passes every check, with whole fields replaced by `changes`."""
    rows = rows or made_rows()
    points = rows["points_sft"]
    n = len(points)
    fields: dict[str, Any] = {
        "algorithm": "dpo",
        "candidates": 1,
        "seed": 0,
        "rows": rows,
        "evaluation": {
            "judge": "gold",
            "judging": JUDGING,
            "prompts": n,
            "policy_digest": "aa",
            "reference_digest": "bb",
            "win_rate": {"value": float(points.mean())},
            "empty": {"policy": 0.0, "sft": 0.0},
            "distinct_2": {"policy": 0.4, "sft": 0.5},
            "harmful_compliance": {"policy": 0.0, "sft": 0.4, "prompts": 50},
            "over_refusal": {"policy": 0.0, "sft": 0.0, "prompts": 60},
        },
        "reward": {"overall": REWARD},
        "validation": {"set": {"overlap": {"prompts": 0, "same_words": 3, "test_prompts": 500}}},
        "receipt": {
            "inputs": {"models/sft": "bb", "models/reward/overall": "cc", "data/judgements": "dd", "data/clean": "ee"}
        },
        "policy_digest": "aa",
        "champion": "ff",
    }
    return Evidence(**(fields | changes))


@pytest.fixture
def evidence() -> Callable[..., Evidence]:
    return made_evidence


@pytest.fixture
def rows() -> Callable[..., dict[str, Any]]:
    return made_rows
