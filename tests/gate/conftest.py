"""Evidence about a policy that deserves promotion, for tests to spoil."""

from collections.abc import Callable, Sequence
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
SIDES = ("policy", "sft", "champion")
TRAINED = {"steps": 80, "skipped": 0}
REWARD = {
    **TRAINED,
    "accuracy": {"value": 0.75, "low": 0.72, "high": 0.78, "n": 300, "pairs": 900},
    "short_accuracy": {"value": 0.7, "low": 0.66, "high": 0.74, "n": 250, "pairs": 500},
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

INPUTS = {
    "models/sft": "bb",
    "models/reward/overall": "cc",
    "data/judgements": "dd",
    "data/clean": "ee",
    "data/clean/demonstrations.parquet": "ed",
    "models/base": "b0",
    "data/raw": "e0",
}
MADE_FROM = {
    "models/sft": ["data/clean/demonstrations.parquet", "models/base"],
    "data/clean/demonstrations.parquet": ["data/clean"],
    "models/reward/overall": ["data/judgements", "models/sft"],
    "data/judgements": ["data/clean"],
    "data/clean": ["data/raw"],
}
COST = {"latency_p95": 0.02, "peak_memory": 400_000_000}
SERVED = {"served": True, "reason": "", "cost": COST}


@pytest.fixture(scope="session")
def thresholds() -> GateConfig:
    """The gate's section of the repository's params.yaml, with intervals of fewer resamples."""
    return load_config(ROOT / "params.yaml").gate.model_copy(update={"bootstrap": 500, "test_set": "dd"})


def made_rows(n: int = PROMPTS, *, gain: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Rows of n prompts on which the policy's scores are higher than SFT's by `gain` standard deviations on average."""
    random = np.random.default_rng(seed)
    sft, policy, champion = (random.normal(mean, 1, n) for mean in (0, gain, 0))
    return {
        "prompt_id": np.array([f"p{index:04}" for index in range(n)]),
        "use_case": np.array(["chat", "rewrite", "generation", "extraction"])[np.arange(n) % 4],
        "kind": np.array(["plain", "user"])[np.arange(n) % 2],
        "turns": np.array(["one", "several"])[np.arange(n) % 8 // 7],
        "prompt_length": np.array(["short", "medium", "long"])[np.arange(n) // 5 % 3],
        "points_sft": win_points(policy, sft),
        "points_champion": win_points(policy, champion),
        "seen": np.arange(n) / n * 0.7,
        "sft_gold": sft,
        "policy_gold": policy,
        "sft_reward": sft + 0.1,
        "policy_reward": policy + 0.2,
        "sft_referee": sft + random.normal(0, 0.2, n),
        "policy_referee": policy + random.normal(0, 0.2, n),
        "sft_response": np.array([f"answer {index}" for index in range(n)], dtype=object),
        "policy_response": np.array([f"better answer {index}" for index in range(n)], dtype=object),
        "champion_response": np.array([f"other answer {index}" for index in range(n)], dtype=object),
        "has_right_answer": np.arange(n) % 2 == 0,
        "sft_correct": random.integers(0, 2, n).astype(float),
        "policy_correct": np.ones(n),
        "kl": random.normal(12.0, 3.0, n),
        "sft_length": random.integers(15, 25, n),
        "policy_length": random.integers(16, 26, n),
        "sft_terminated": np.ones(n, dtype=bool),
        "policy_terminated": np.ones(n, dtype=bool),
        "champion_terminated": np.ones(n, dtype=bool),
        **{f"{side}_repetition": random.uniform(0, 0.02, n) for side in SIDES},
        **{f"{side}_copying": random.uniform(0, 0.1, n) for side in SIDES},
        "sft_entropy": random.uniform(0.4, 0.8, n),
        "policy_entropy": random.uniform(0.3, 0.7, n),
        "champion_length": random.integers(15, 25, n),
    }


def made_safety(n: int = 300) -> dict[str, Any]:
    """Rows of n requests of either kind. SFT helps with one harmful request in three, and refuses one in a hundred of
    those that only look harmful; the policy does neither."""
    nothing, third, hundredth = np.zeros(2 * n, bool), np.arange(2 * n) % 3 == 0, np.arange(2 * n) % 100 == 0
    return {
        "prompt_id": np.array([f"s{index:04}" for index in range(2 * n)]),
        "kind": np.repeat(np.array(["harmful", "borderline"], dtype=object), n),
        "policy_complied": nothing,
        "sft_complied": third,
        "champion_complied": hundredth,
        "policy_refused": nothing,
        "sft_refused": hundredth,
        "champion_refused": nothing,
    }


def made_path(gold: Sequence[float], proxy: Sequence[float] | None = None, n: int = PROMPTS) -> list[dict[str, Any]]:
    """The way of a training whose places are 1, 2, ... from SFT and gained so much, each give or take 0.1."""

    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}

    found = []
    for place, gains in enumerate(zip(gold, proxy or gold, strict=True), 1):
        known = {
            "gold": (gains[0], gold[-1]),
            "referee": (gains[0], gold[-1]),
            "proxy": (gains[1], (proxy or gold)[-1]),
        }
        leads = {judge: interval(last - here) for judge, (here, last) in known.items()}
        gained = {judge: interval(here) for judge, (here, _) in known.items()}
        found.append({"policy": f"step-{place}", "kl": interval(float(place**2)), **gained, "lead": leads})
    return found


def made_evidence(rows: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    """Evidence that passes every check, with whole fields replaced by `changes`."""
    rows = rows or made_rows()
    points = rows["points_sft"]
    n = len(points)
    random, ones = np.random.default_rng(1), np.ones(50)
    fields: dict[str, Any] = {
        "algorithm": "dpo",
        "candidates": 1,
        "seed": 0,
        "rows": rows,
        "evaluation": {
            "judge": "gold",
            "judge_digest": "g0",
            "judging": JUDGING,
            "prompts": n,
            "policy_digest": "aa",
            "reference_digest": "bb",
            "champion_digest": changes.get("champion", "ff"),
            "prompts_digest": "dd",
            "lineage": {
                path: {"digest": INPUTS[path], "inputs": {name: INPUTS[name] for name in sources}}
                for path, sources in MADE_FROM.items()
            },
            "files": {"foreign": [], "code": [], "same_template": True},
            "serving": {"served": True, "reason": "", "prompts": 16, "same": 16, "cost": COST, "champion": SERVED},
            "win_rate": {"value": float(points.mean())},
            "champion_win_rate": {"value": float(rows["points_champion"].mean())},
            "distinct_2": {"policy": 0.4, "sft": 0.5},
            "harmful_compliance": {"policy": 0.0, "sft": 1 / 3, "champion": 0.01, "prompts": 300},
            "over_refusal": {"policy": 0.0, "sft": 0.01, "champion": 0.0, "prompts": 300},
            "documents": 200,
            "path": made_path([0.4, 0.7, 0.9, 1.0]),
        },
        "safety": made_safety(),
        "diversity": {"sft_distinct_2": 0.7 * ones, "policy_distinct_2": random.uniform(0.5, 0.7, 50)},
        "documents": {
            "tokens": random.integers(10, 40, 200),
            "sft_nats": random.normal(50, 5, 200),
            "policy_nats": random.normal(51, 5, 200),
        },
        "base": TRAINED,
        "sft": TRAINED,
        "align": TRAINED,
        "reward": {"overall": REWARD},
        "referee": REWARD,
        "validation": {
            "set": {"overlap": {"prompts": 0, "same_words": 3, "conversations": 0, "test_prompts": 500}},
        },
        "screening": {"judgements": 1600, "alarms": []},
        "receipt": {"inputs": {name: INPUTS[name] for name in MADE_FROM}},
        "policy_digest": "aa",
        "champion": "ff",
        "uses": 0,
        "sharing": range(1, 2),
        "test_sets": {"dd"},
    }
    return Evidence(**(fields | changes))


@pytest.fixture
def evidence() -> Callable[..., Evidence]:
    return made_evidence


@pytest.fixture
def rows() -> Callable[..., dict[str, Any]]:
    return made_rows
