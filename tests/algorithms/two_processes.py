"""A run of every algorithm under `torch.distributed.run`, for test_invariants: SFT model, directory of the weights."""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.algorithms.test_invariants import ALGORITHMS, KILLED, finish, make
from tests.algorithms.tiny import loop


def main(sft: Path, weights: Path, rank: str) -> None:
    """Every process takes part in every run; the first one writes. One run is there twice, the second in one piece."""
    for name in [*ALGORITHMS, f"{KILLED}-whole"]:
        run = make(name.removesuffix("-whole"), sft, loop(micro_batch_size=5))
        ended = finish(run, weights / f"work-{name}")
        if rank == "0":
            save_file(ended, weights / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ["RANK"])
