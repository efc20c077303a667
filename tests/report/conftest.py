"""A workspace whose stages have reported, with texts that try to break the page."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.gate.checks import GROUPS
from rlhf.gate.decision import candidate, decide
from rlhf.gate.records import Candidate, Check, Decision, WinRate

HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)> \u202egnp.exe\u200b {{ 7 * 7 }} </p></body>'
USE_CASES = ("chat", "extraction", "rewrite", "generation")


def made_row(index: int, algorithm: str) -> dict[str, Any]:
    answer = HOSTILE if index == 5 else f"Answer {index} of {algorithm}, short and to the point."
    return {
        "prompt_id": f"{index:03}",
        "prompt": [{"role": "user", "content": f"Question {index}: what is the capital of country {index}?"}],
        "use_case": USE_CASES[index % 3 if index < 12 else 3],
        "sft_response": "the same" if index < 3 else f"A much longer answer {index} that goes on and on and on.",
        "policy_response": "the same" if index < 3 else answer,
        "sft_length": 18 + index % 9,
        "policy_length": 12 + index % 7,
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
    reports, steps = path / "reports", list(range(1, 61))
    for name in ("ppo", "dpo"):
        write_json(reports / "evaluate" / name / "metrics.json", evaluation(name))
        write_json(reports / "align" / name / "metrics.json", {"loss": 0.41, "kl": 11.0, "steps": 60})
        rows = [made_row(index, name) for index in range(40)][::-1]
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
    write_json(reports / "collect.json", {"rows": {"rankings": 1200}})
    write_json(reports / "gate" / "decision.json", made_decision().to_json())
    return path


def made_checks() -> list[Check]:
    """Every check, passing, with numbers of different sizes; one warning that fails and one that is undecided."""
    numbers = {
        "better_than_sft": (0.806, 0.761, 0.849, 0.5, True),
        "kl": (14.2, 13.6, 14.9, 40.0, False),
        "gold_gain": (0.46, 0.42, 0.5, 0.0, True),
        "terminated": (0.995, 0.982, 0.999, 0.9, True),
        "empty": (0.0, 0.0, 0.0092, 0.02, False),
        "length_ratio": (0.75, 0.73, 0.77, 1.5, False),
        "reward_accuracy": (0.74, 0.71, 0.77, 0.6, True),
        "over_refusal": (0.02, -0.05, 0.12, 0.1, False),
    }
    found = []
    for group, checks in GROUPS.items():
        for check in checks:
            value, low, high, threshold, at_least = numbers.get(check.__name__, (None, None, None, None, True))
            reason = (
                check.__name__.replace("_", " ") + " is as it must be: a sentence about what was found and required"
            )
            found.append(
                Check(
                    name=check.__name__,
                    group=group,
                    outcome="undecided" if check.__name__ == "over_refusal" else "pass",
                    reason=reason,
                    value=value,
                    low=low,
                    high=high,
                    n=400,
                    threshold=threshold,
                    at_least=at_least,
                    blocking=check.__name__ not in ("reward_calibration", "over_refusal"),
                    needed=2310 if check.__name__ == "over_refusal" else None,
                )
            )
    return found


def made_decision() -> Decision:
    rate = WinRate(0.806, 0.761, 0.849, 318, 9, 73)
    failing = [
        Check(outcome="fail", reason=f"{HOSTILE} is too far", name=c.name, group=c.group) if c.name == "kl" else c
        for c in made_checks()
    ]
    candidates: list[Candidate] = [candidate("ppo", "aa", failing, rate), candidate("dpo", "aa", made_checks(), rate)]
    return decide(candidates, "gold", "ff", 3)


RECEIPTS = {
    f"models/policy/{name}": {
        "stage": f"align@{name}",
        "key": "3f" * 32,
        "inputs": {"models/sft": "ab" * 32, "data/judgements": "cd" * 32},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
    }
    for name in ("dpo", "ppo")
}
