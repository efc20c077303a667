"""Runs of sharded models under `torch.distributed.run`, for test_invariants: SFT model, directory of the results."""

import os
import sys
from pathlib import Path

import pytest
from torch import distributed
from torch.distributed.tensor import DTensor

from rlhf.models.loading import save_model
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from rlhf.training.snapshots import Snapshots
from tests.algorithms.test_invariants import KillAt, Killed, finish, make
from tests.algorithms.tiny import loop, tiny_tokenizer


def main(sft: Path, directory: Path, rank: str) -> None:
    """Each run is killed half way, when it must be sharded, and resumed; every process takes part."""
    for name in ("sft", "ppo", "gr_dpo"):
        work = directory / f"work-{name}"
        objective, steps, total, config = make(name, sft, loop(micro_batch_size=5))
        with pytest.raises(Killed):
            train(
                objective,
                steps,
                total_steps=total,
                config=config,
                checkpoints=Checkpoints(work),
                recorder=KillAt(total // 2 + 1),
            )
        assert all(isinstance(parameter, DTensor) for parameter in objective.parameters())
        distributed.barrier()
        assert any(work.iterdir())
        objective, steps, total, config = make(name, sft, loop(micro_batch_size=5))
        snapshots = Snapshots(objective.policy, directory / f"two-{name}", count=1, total_steps=total)
        finish((objective, snapshots.on_the_way(steps), total, config), work)
        own = directory / name if rank == "0" else directory / f"{name}-{rank}"
        save_model(objective.policy, tiny_tokenizer(), own, title="sharded", summary="")
        distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ["RANK"])
