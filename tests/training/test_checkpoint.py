"""Checkpoints: what comes back is what was saved, and a torn one is passed over."""

from pathlib import Path

import torch

from rlhf.training.checkpoint import Checkpoints
from tests.algorithms.tiny import tiny_policy


def test_a_tied_head_survives_a_checkpoint(tmp_path: Path) -> None:
    policy, other = tiny_policy(0), tiny_policy(1)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    Checkpoints(tmp_path).save(3, policy, optimizer, [{"step": 2}])
    assert Checkpoints(tmp_path).restore(other, torch.optim.AdamW(other.parameters(), fused=True)) == (3, [{"step": 2}])
    assert torch.equal(other.lm_head.weight, policy.lm_head.weight)


def test_what_comes_after_a_step_is_forgotten_and_the_step_is_not(tmp_path: Path) -> None:
    policy, checkpoints = tiny_policy(), Checkpoints(tmp_path)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for step in (4, 6):
        checkpoints.save(step, policy, optimizer, [])
    checkpoints.forget_after(5)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000004"]
    checkpoints.forget_after(4)
    assert checkpoints.restore(policy, optimizer)[0] == 4
    checkpoints.forget_after(3)
    assert checkpoints.restore(policy, optimizer)[0] == 0


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    policy = tiny_policy()
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, policy, optimizer, [])
    weights = tmp_path / "step-00000002" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert Checkpoints(tmp_path).restore(policy, optimizer)[0] == 1
