"""referee: a reward model of rankings that nothing else learns from, to watch those that policies are aligned with.

The test preference model beside the train preference model of Bai et al. 2022 (https://arxiv.org/abs/2204.05862):
where a policy has learned the errors of the one, the other does not follow.
"""

from rlhf.data.splits import REFEREE
from rlhf.pipeline.stage import Stage, run_stage
from tasks.reward import learn

SEED = 500_009  # added to the seed: its head starts elsewhere, and it reads in another order


def main(stage: Stage) -> None:
    """Write models/referee: one model of all criteria, of which each ranking counts the same whatever its weight."""
    learn(
        stage,
        "referee",
        REFEREE,
        list(stage.config.reward.criteria),
        seed=stage.seed + SEED,
        title="Referee",
    )


if __name__ == "__main__":
    run_stage(main)
