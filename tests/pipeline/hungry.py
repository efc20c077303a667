"""A stage for test_memory: SFT of a tiny model on rows of which the fourth step has the long ones, in little memory."""

import ctypes
import resource
from pathlib import Path

from safetensors.torch import save_model
from transformers import PreTrainedModel

from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.batching.encoding import Turn
from rlhf.batching.order import rows_of_step
from rlhf.config.training import LoopConfig
from rlhf.pipeline.process import M_MMAP_MAX
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import Recorder, train
from tests.algorithms.tiny import tiny_policy

ROOM = 520 << 20  # bytes: 32 long rows take 410, 64 of them 640, each give or take 10
ROWS, STEPS, LONG = 64, 5, 3
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def learn(config: LoopConfig, checkpoints: Checkpoints, recorder: Recorder, room: int | None = None) -> PreTrainedModel:
    """A model after five steps of 64 rows, for which the process takes at most `room` more bytes of address space."""
    policy = tiny_policy()
    if room:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))
    long = set(rows_of_step(LONG, ROWS * STEPS, ROWS, 1))
    turns = [
        Turn([5, 6], [10 + (row + place) % 240 for place in range(2000 if row in long else 8)])
        for row in range(ROWS * STEPS)
    ]
    steps, total = supervised_steps(turns, config, epochs=1.0, seed=1)
    objective = LikelihoodObjective(policy)
    train(objective, steps, total_steps=total, config=config, checkpoints=checkpoints, recorder=recorder)
    return policy


def main(stage: Stage) -> None:
    """Write models/sft. What is freed goes back to the kernel: how a heap breaks up differs from run to run."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 1 << 16)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 18)
    policy = learn(stage.config.sft.loop, Checkpoints(stage.work), stage, ROOM)
    save_model(policy, str(stage.output("models/sft") / "weights.safetensors"))
    stage.summary("learned")


if __name__ == "__main__":
    run_stage(main)
