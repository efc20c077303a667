"""AdamW as the settings say: its schedule, what decays, and gradients that are clipped."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.training.learner import Learner
from rlhf.training.optimizer import learning_rate, make_optimizer
from rlhf.training.step import Step
from tests.algorithms.tiny import Line


def config(**changes: object) -> OptimizerConfig:
    values = {"learning_rate": 0.5, "warmup": 0.0, "weight_decay": 0.25, "betas": (0.75, 0.875), "eps": 1e-3}
    return OptimizerConfig(**values | {"max_grad_norm": 5.0} | changes)


@pytest.mark.parametrize(
    ("warmup", "total", "rates"),
    [
        (0.2, 10, {0: 1 / 3, 1: 2 / 3, 2: 1, 3: 7 / 8, 9: 1 / 8}),
        (0.0, 4, {0: 1, 1: 3 / 4, 2: 1 / 2, 3: 1 / 4}),
        (1.0, 2, {0: 1 / 3, 1: 2 / 3}),
    ],
)
def test_the_rate_rises_and_falls_in_lines(warmup: float, total: int, rates: dict[int, float]) -> None:
    found = {step: learning_rate(step, total, config(warmup=warmup)) / 0.5 for step in rates}
    assert found == pytest.approx(rates, rel=1e-12)


def test_matrices_decay_and_what_is_frozen_is_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    matrices, others = make_optimizer(module, config()).param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.25, 0.0)
    assert [p is module[0].weight for p in matrices["params"]] == [True]
    assert {id(p) for p in others["params"]} == {id(module[0].bias), *map(id, module[1].parameters())}
    for group in (matrices, others):
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.75, 0.875), 1e-3)


@pytest.mark.parametrize(("limit", "left"), [(5.0, (3.0, 4.0, 0.0)), (100.0, (30.0, 40.0, 0.0))])
def test_a_long_gradient_is_cut_to_the_limit_and_recorded_as_it_was(limit: float, left: tuple[float, ...]) -> None:
    """Of a step of two rows: (60, 80) / 2. The mean of AdamW is (1 - beta) of what it is given first."""
    line = Line()
    settings = config(max_grad_norm=limit)
    optimizer = make_optimizer(line, settings)
    learner = Learner(line, optimizer, Accelerator(), settings, total_steps=4)
    learner.learn(0, Step([torch.tensor([60.0, 80.0, 0.0])], 2.0))
    ((_, recorded),) = learner.meter.read()
    assert recorded["grad_norm"] == pytest.approx(50.0)
    assert recorded["learning_rate"] == 0.5
    torch.testing.assert_close(optimizer.state[line.weights]["exp_avg"], 0.25 * torch.tensor(left))
