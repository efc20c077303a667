"""What each of several processes does of work that they share, for test_processes: SFT model, directory of answers."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from rlhf.algorithms.dpo import reference_log_probs
from rlhf.models.cached import cached
from rlhf.models.processes import shared_out, true_everywhere
from rlhf.models.scoring import turn_log_probs
from rlhf.rollouts.sampling import sample
from tests.algorithms.test_invariants import online_source
from tests.algorithms.tiny import groups, loop, talkative_policy, turns

Told = dict[str, Any]


def found(sft: Path, kept: Path) -> Told:
    """What is found with the work of all, and under `work` the passes forward that this process made for each."""
    policy, ranked = talkative_policy(), groups(6)
    prompts, settings = [turn.prompt for turn in turns(7)], {"max_tokens": 6, "temperature": 1.0, "eos": 1, "seed": 3}
    algorithm, source, _ = online_source("ppo", sft, loop(micro_batch_size=5))
    works: dict[str, tuple[nn.Module, Callable[[], Any]]] = {
        "few batches": (policy, lambda: words(sample(policy, prompts, batch_size=100, **settings))),
        "many batches": (policy, lambda: words(sample(policy, prompts, batch_size=2, **settings))),
        "rankings": (policy, lambda: reference_log_probs(policy, ranked, 2).tolist()),
        "turns": (policy, lambda: turn_log_probs(policy, turns(9), 2).tolist()),
        "kept": (policy, lambda: cached(kept, lambda: {"x": turn_log_probs(policy, turns(4), 2)})["x"].tolist()),
        "critic": (algorithm.critic, lambda: source.collect(0)[0]["advantages"].tolist()),
    }
    work, told = dict[str, int](), dict[str, Any]()
    for name, (model, ask) in works.items():
        work[name], told[name] = passes(model, ask)
    return told | {"work": work}


def keep(path: Path) -> None:
    """What need not be computed."""
    cached(path, lambda: {"x": torch.tensor(1)})


def words(samples: list[Any]) -> list[list[int]]:
    return [one.response for one in samples]


def passes(model: nn.Module, ask: Callable[[], Any]) -> tuple[int, Any]:
    """How often a model's body was computed for what was asked, and the answer."""
    counted = list[int]()
    with_hook = model.base_model.register_forward_pre_hook(lambda *_: counted.append(1))
    answer = ask()
    with_hook.remove()
    return len(counted), answer


def main(sft: Path, directory: Path, rank: int) -> None:
    """Write it down, with what the two functions say that share work. What was kept, rank 0 alone has kept."""
    kept = directory / str(rank) / "kept"
    if rank == 0:
        keep(kept)
    PartialState()
    told = found(sft, kept) | {
        "squares": shared_out(lambda number: [rank, number**2], range(5)),
        "nothing": shared_out(lambda number: number, []),
        "everywhere": [
            true_everywhere(True),
            true_everywhere(rank == 0),
            true_everywhere(rank == 1),
            true_everywhere(False),
        ],
    }
    (directory / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"]))
