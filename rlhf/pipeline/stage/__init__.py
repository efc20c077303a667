"""A stage from inside: what its program may read, where it writes, and how it ends.

def main(stage: Stage) -> None:
    rows = read(stage.input("data/clean"))
    write(stage.output("models/sft"), train(rows, stage.config.sft))

if __name__ == "__main__":
    run_stage(main)
"""

from rlhf.pipeline.stage.program import run_stage
from rlhf.pipeline.stage.stage import Stage
from rlhf.pipeline.stage.work import clear_checkpoints

__all__ = ["Stage", "clear_checkpoints", "run_stage"]
