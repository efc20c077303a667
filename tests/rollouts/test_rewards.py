"""What an iteration's answers are worth by several criteria, whatever the micro-batches they are scored in."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.source import OnlineSource
from rlhf.batching.batches import SequenceBatch
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample, sample
from tests.algorithms.enumerable import Table, World, settings

BY = torch.tensor([[3.0, 1.0, 1.0, 3.0], [10.0, 10.0, 50.0, 10.0]])  # of each answer, by each criterion
WEIGHTS = {"helpful": 1.0, "harmless": 2.0}


def test_raw_the_scales_count_and_standardized_the_weights() -> None:
    """By hand: helpful 1, -1, -1, 1 from its mean (a deviation of 2 / sqrt 3), harmless -10, -10, 30, -10 (20)."""
    judges = {name: partial(lambda row, batch: row, row) for name, row in zip(WEIGHTS, BY, strict=True)}
    raw, alike = (Rewards(judges, WEIGHTS, combine) for combine in ("raw", "standardized"))
    found = raw(None)
    assert found.shape == (4, 2)
    assert raw.scores(found, 4).tolist() == raw.total(found).tolist() == [23.0, 21.0, 101.0, 23.0]
    one = 3**0.5 / 2
    expected = torch.tensor([one - 1, -one - 1, -one + 3, one - 1])
    torch.testing.assert_close(alike.scores(found, 4), expected, rtol=0, atol=4e-4)
    torch.testing.assert_close(alike.scores(found, 1), expected, rtol=0, atol=4e-4)  # one answer each: over all prompts
    torch.testing.assert_close(alike.scores(found, 2), torch.tensor([1.0, -1.0, 1.0, -1.0]) / 2**0.5, rtol=0, atol=4e-4)
    assert alike.means(found) == {"reward": 42.0, "reward_helpful": 2.0, "reward_harmless": 20.0}
    alone = Rewards({"overall": judges["helpful"]}, {"overall": 1.0}, "raw")
    assert alone.means(alone(None)) == {"reward": 2.0}


@pytest.mark.parametrize("micro_batch_size", [8, 3])
def test_groups_are_whole_in_whatever_pieces_they_are_scored(micro_batch_size: int) -> None:
    """GRPO without its own scale then credits each answer with the sum of its standardised rewards."""
    one, other = World(4, 0.1, seed=0), World(4, 0.1, seed=1)

    def judge(world: World, batch: SequenceBatch) -> Tensor:
        return world.reward[batch.ids[:, 0], batch.ids[:, 1]]

    def beside(gap: float, *arguments: Any, **options: Any) -> list[Sample]:
        """Answers of the policy, as if a sampler had given each token another probability."""
        drawn = sample(*arguments, **options, batch_size=8)
        return [replace(answer, log_probs=[each - gap for each in answer.log_probs]) for answer in drawn]

    config = settings("grpo", 0.1, prompts=2, answers=4, normalize=False, epochs=2)
    config = config.model_copy(update={"loop": config.loop.model_copy(update={"micro_batch_size": micro_batch_size})})
    rewards = Rewards({"helpful": partial(judge, one), "harmless": partial(judge, other)}, WEIGHTS, "standardized")
    algorithm = Grpo(Table(torch.zeros(5, 4)), config, max_tokens=1)

    def source(gap: float) -> OnlineSource:
        return OnlineSource(
            algorithm,
            nullcontext(Table(torch.zeros(5, 4))),
            partial(beside, gap),
            rewards,
            [[prompt] for prompt in range(5)],
            config,
            max_tokens=1,
            eos=-1,
            seed=0,
        )

    with pytest.raises(AssertionError, match=r"0.25 nats a token from how the policy scores it"):
        source(0.25).collect(0)
    experience, metrics = source(5e-4).collect(0)
    assert metrics["sampler_gap"] == pytest.approx(5e-4, abs=1e-6)
    found = torch.stack([judge(world, experience.batch) for world in (one, other)], dim=1)
    groups = found.view(2, 4, 2)
    standard = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    expected = (standard * torch.tensor([1.0, 2.0])).sum(2).view(-1)
    torch.testing.assert_close(experience["advantages"].sum(1), expected, rtol=1e-5, atol=1e-5)
    assert metrics["reward"] == pytest.approx(float((found * torch.tensor([1.0, 2.0])).sum(1).mean()), rel=1e-5)
