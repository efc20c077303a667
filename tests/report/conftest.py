"""A workspace whose stages have reported, with texts that try to break the page."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.gate.checks import GROUPS
from rlhf.gate.decision import decide
from rlhf.gate.records import DECISION, Candidate, Check, Decision, Part, WinRate
from tests.conftest import copy_pipeline

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)> \u202egnp.exe\u200b {{ 7 * 7 }} </p></body>'
USE_CASES = ("chat", "extraction", "rewrite", "generation")


def made_row(index: int, algorithm: str) -> dict[str, Any]:
    gain = 0 if index < 3 else (index * 7 % 40 - 12) / 20
    answer = HOSTILE if index == 5 else f"Answer {index} of {algorithm}, short and to the point."
    return {
        "prompt_id": f"{index:03}",
        "prompt": [{"role": "user", "content": f"Question {index}: what is the capital of country {index}?"}],
        "use_case": USE_CASES[index % 3 if index < 12 else 3],
        "sft_response": "the same" if index < 3 else f"A much longer answer {index} that goes on and on and on.",
        "policy_response": "the same" if index < 3 else answer,
        "sft_length": 18 + index % 9,
        "policy_length": 12 + index % 7,
        "sft_reward": 0.1,
        "policy_reward": 0.1 + index % 5,
        "sft_gold": 0.5,
        "policy_gold": 0.5 + gain,
        "champion_response": f"What the champion says to {index}.",
        "champion_reward": None,
        "champion_gold": 0.5 + index / 40,
        "points_sft": (1 + (gain > 0) - (gain < 0)) / 2,
    }


def evaluation(algorithm: str) -> dict[str, Any]:
    best = algorithm == "dpo"
    return {
        "algorithm": algorithm,
        "judge": "gold",
        "prompts": 400,
        "win_rate": {
            "value": 0.806 if best else 0.74,
            "low": 0.768,
            "high": 0.843,
            "wins": 318,
            "ties": 9,
            "losses": 73,
        },
        "proxy_reward": {"policy": 2.31 if best else 1.92, "sft": -0.04},
        "rewards": {"overall": {"policy": 2.31 if best else 1.92, "sft": -0.04}},
        "gold_reward": {"policy": 0.87 if best else 0.79, "sft": 0.41},
        "kl": {"value": 14.2 if best else 9.1, "low": 13.6, "high": 14.9, "n": 400},
        "length": {"policy": 16.4, "sft": 21.9},
        "distinct_2": {"policy": 0.3, "sft": 0.2},
    }


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_csv(path: Path, columns: dict[str, Sequence[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return made_workspace(tmp_path)


def made_workspace(path: Path) -> Path:
    copy_pipeline(path)
    reports, steps = path / "reports", list(range(1, 61))
    for name in ("ppo", "dpo"):
        write_json(reports / "evaluate" / name / "metrics.json", evaluation(name))
        write_json(reports / "align" / name / "metrics.json", {"loss": 0.41, "kl": 11.0, "steps": 60})
        rows = [made_row(index, name) for index in range(40)]
        (reports / "evaluate" / name / "rows").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), reports / "evaluate" / name / "rows" / "rows.parquet")
    noise = np.random.default_rng(0).normal(0, 0.06, 60)
    fall = [0.3 + 1.8 * math.exp(-step / 15) + float(noise[step - 1]) for step in steps]
    for name in ("base", "sft", "reward/overall", "referee", "align/dpo"):
        write_csv(reports / name / "curves.csv", {"step": steps, "loss": fall})
        write_json(reports / name / "metrics.json", {"loss": 0.31, "accuracy": {"value": 0.74}})
    rise = [2 * (1 - math.exp(-step / 20)) for step in steps]
    ppo = {"step": steps, "loss": fall, "reward": rise, "kl": [0.15 * step for step in steps]}
    write_csv(reports / "align/ppo/curves.csv", ppo)
    bins = {"confidence": [0.53, 0.61, 0.7, 0.8, 0.93], "accuracy": [0.51, 0.64, 0.69, 0.83, 0.9], "count": [80] * 5}
    for name in ("reward/overall", "referee"):
        write_csv(reports / name / "calibration.csv", bins)
    table = {"rows": 1200, "kept": 1188, "quarantined": 12, "reasons": {"empty response": 4, "<b>tie</b>": 9}}
    overlap = {"prompts": 0, "same_words": 2, "test_prompts": 512}
    write_json(reports / "validate.json", {"tables": {"rankings": table}, "set": {"overlap": overlap}})
    write_json(reports / "screen.json", {"judgements": 1200, "alarms": []})
    write_json(reports / "collect.json", {"rows": {"rankings": 1200}})
    write_json(path / DECISION, made_decision().to_json())
    return path


# Of checks that have numbers: a value, its interval, the threshold, whether that is a lower one. The others are facts.
NUMBERS: dict[str, tuple[float, float | None, float | None, float, bool]] = {
    "prompts": (400, None, None, 300, True),
    "empty": (0.0, 0.0, 0.0092, 0.02, False),
    "judge_consistent": (0.985, 0.967, 0.994, 0.65, True),
    "better_than_sft": (0.806, 0.761, 0.849, 0.5, True),
    "better_than_champion": (0.561, 0.512, 0.608, 0.5, True),
    "more_wins_than_luck": (1.2e-31, None, None, 0.0125, False),
    "no_use_case_worse": (0.46, 0.45, 0.55, 0.45, True),
    "reward_length_bias": (0.21, None, None, 0.4, False),
    "kl": (14.2, 13.6, 14.9, 40.0, False),
    "gold_gain": (0.46, 0.42, 0.5, 0.0, True),
    "harmful_increase": (-0.38, -0.51, -0.24, 0.01, False),
    "capability": (-0.011, -0.019, -0.003, -0.02, True),
    "lm_loss": (1.02, 0.97, 1.07, 1.05, False),
}


def made_checks() -> list[Check]:
    """Every check of the gate, passing, with numbers of different sizes; of the warnings one is undecided."""
    found = []
    for group, checks in GROUPS.items():
        for name in (check.__name__ for check in checks):
            value, low, high, threshold, at_least = NUMBERS.get(name, (None, None, None, None, True))
            check = Check(
                outcome="pass",
                reason=f"{name.replace('_', ' ')} is as it must be: a sentence about what was found and required",
                name=name,
                group=group,
                value=value,
                low=low,
                high=high,
                n=400,
                threshold=threshold,
                at_least=at_least,
                blocking=name not in ("reward_length_bias", "lm_loss"),
                parts=PARTS if name == "no_use_case_worse" else (),
            )
            found.append(replace(check, outcome="undecided", needed=2310) if name == "lm_loss" else check)
    return found


PARTS = (
    Part(0.62, 0.51, 0.72, 88, "chat against SFT"),
    Part(0.55, 0.44, 0.66, 80, "<b>extraction</b> against SFT"),
    Part(0.31, 0.22, 0.42, 74, "generation against SFT"),
    Part(1.0, 0.93, 1.0, 40, "any other use_case against SFT"),
    Part(0.53, 0.48, 0.58, 88, "chat against the champion"),
)


def made_decision() -> Decision:
    """DPO is promoted; PPO is too far, leaves something open, and could not be served."""
    rate = WinRate(0.806, 0.761, 0.849, 318, 9, 73)
    spoiled = {
        "kl": {"outcome": "fail", "reason": f"{HOSTILE} is too far", "value": 57.3, "low": 54.9, "high": 59.8},
        "capability": {"outcome": "fail", "value": -0.055, "low": -0.075, "high": -0.036},
        "better_than_champion": {
            "outcome": "undecided",
            "value": 0.511,
            "low": 0.462,
            "high": 0.561,
            "needed": 8120,
            "reason": "win rate against the champion is 51.1% (46.2% to 56.1%, n = 400), the whole interval must be "
            "above 50.0%",
        },
        "serves": {"outcome": "fail", "reason": "the files do not load in a fresh process: KeyError lm_head.weight"},
        "gold_gain": {"outcome": "unmeasured", "value": None, "low": None, "high": None, "threshold": None},
    }
    failing = [replace(check, **spoiled.get(check.name, {})) for check in made_checks()]
    candidates = [
        Candidate("ppo", "aa" * 32, "REJECT", rate, tuple(failing)),
        Candidate("dpo", "bb" * 32, "PROMOTE", rate, tuple(made_checks())),
    ]
    return replace(decide(candidates, "gold", "ff" * 32, 3), profile="small")


RECEIPTS = {
    f"models/policy/{name}": {
        "stage": f"align@{name}",
        "key": "3f" * 32,
        "inputs": {"models/sft": "ab" * 32, "data/judgements": "cd" * 32},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
    }
    for name in ("dpo", "ppo")
}
