"""GRPO and its corrected forms, and RLOO, on answers that TRL sampled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.online import Experience, MicroBatch, Rollouts
from rlhf.algorithms.rloo import Rloo
from rlhf.batching.batches import SequenceBatch, pad
from rlhf.batching.encoding import Turn
from rlhf.models.scoring import token_log_probs
from tests.algorithms.tiny import PARAMS, tiny_policy
from tests.parity.conftest import agree

GROUP, LONGEST = 4, 6
PROMPTS = [{"prompt": text} for text in ("red green blue", "one two", "north")]


def judge(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between the answers to a prompt."""
    return [float(sum(ids) % 11) / 5 for ids in completion_ids]


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Where TRL finds its reference, by the name that the policy bears."""
    tiny_policy(0).save_pretrained(tmp_path / "reference")
    return tmp_path / "reference"


def recorded(
    trl: Callable[..., Any], kind: str, reference: Path, **options: Any
) -> tuple[Any, dict[str, Any], SequenceBatch]:
    """A trainer, the answers that it sampled and scored, and the same as a batch of ours."""
    size, policy = GROUP * len(PROMPTS), tiny_policy(1)
    policy.config._name_or_path = str(reference)
    trainer = trl(
        kind,
        policy,
        PROMPTS,
        init={"reward_funcs": judge},
        num_generations=GROUP,
        max_completion_length=LONGEST,
        per_device_train_batch_size=size,
        **options,
    )
    torch.manual_seed(0)
    inputs = trainer._generate_and_score_completions([row for row in PROMPTS for _ in range(GROUP)])
    return trainer, inputs, pad([turn(inputs, row) for row in range(size)])


def turn(inputs: dict[str, Any], row: int) -> Turn:
    kept = [
        inputs[f"{part}_ids"][row][inputs[f"{part}_mask"][row].bool()].tolist() for part in ("prompt", "completion")
    ]
    return Turn(*kept)


def rollouts(batch: SequenceBatch) -> Rollouts:
    scores = torch.tensor(judge([row[mask].tolist() for row, mask in zip(batch.ids, batch.mask, strict=True)]))
    with torch.no_grad():
        log_probs, reference = (token_log_probs(tiny_policy(seed), batch).log_probs for seed in (1, 0))
    parts = [(torch.arange(len(batch)), batch)]
    return Rollouts(batch=batch, parts=parts, answers=GROUP, scores=scores, log_probs=log_probs, reference=reference)


def our_loss(algorithm: Any, made: Rollouts, log_probs: Tensor) -> Tensor:
    """The loss on experience whose policy has since moved to `algorithm.policy`."""
    tokens = {"log_probs": log_probs, "reference": made.reference} | algorithm.credit(made)
    total, _ = algorithm(MicroBatch(Experience(made.batch, tokens), first=False))
    return total / algorithm.count(made.batch)


@pytest.mark.parametrize(
    ("loss_type", "mean_over", "normalize"),
    [("grpo", "answer", True), ("dr_grpo", "constant", False), ("dapo", "token", True)],
)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo(
    trl: Callable[..., Any], reference: Path, loss_type: str, mean_over: str, normalize: bool, beta: float
) -> None:
    """The KL term with TRL's `use_bias_correction_kl`; without it, its gradient is not that of the divergence."""
    options = {"loss_type": loss_type, "scale_rewards": "group" if normalize else "none", "beta": beta}
    options |= {"epsilon": 0.2, "epsilon_high": 0.28, "use_bias_correction_kl": True}
    trainer, inputs, batch = recorded(trl, "GRPO", reference, **options)
    section = PARAMS.align.grpo.model_copy(
        update={
            "kl_coefficient": beta,
            "kl_estimator": "k3",
            "mean_over": mean_over,
            "normalize": normalize,
            "clip_high": 0.28,
        }
    )
    algorithm = Grpo(tiny_policy(1), section, max_tokens=LONGEST)
    made = rollouts(batch)
    advantages = algorithm.credit(made)["advantages"][batch.mask.cumsum(1) == 1]
    torch.testing.assert_close(advantages[: len(batch)], inputs["advantages"], rtol=1e-5, atol=1e-5)

    shift = 0.3 * torch.randn(inputs["completion_ids"].shape, generator=torch.Generator().manual_seed(1))
    old = token_log_probs(algorithm.policy, batch).log_probs.detach()
    mask = inputs["completion_mask"].bool()
    theirs_old = torch.zeros_like(shift).masked_scatter(mask, old[batch.mask]) + shift
    old = torch.zeros_like(old).masked_scatter(batch.mask, theirs_old[mask])
    theirs = trainer._compute_loss(trainer.model, inputs | {"old_per_token_logps": theirs_old})
    agree((algorithm.policy, our_loss(algorithm, made, old)), (trainer.model, theirs))


def test_rloo(trl: Callable[..., Any], reference: Path) -> None:
    """On policy. TRL then goes on with a ratio of whole answers; ours takes one step and samples anew."""
    trainer, inputs, batch = recorded(trl, "RLOO", reference, beta=0.3)
    section = PARAMS.align.rloo.model_copy(update={"kl_coefficient": 0.3})
    algorithm, made = Rloo(tiny_policy(1), section), rollouts(batch)
    advantages = algorithm.credit(made)["advantages"][batch.mask.cumsum(1) == 1]
    torch.testing.assert_close(advantages[: len(batch)], inputs["advantages"], rtol=1e-5, atol=1e-5)
    ours, theirs = our_loss(algorithm, made, made.log_probs), trainer._compute_loss(trainer.model, inputs)
    loss_of_ratio = -(made.log_probs.sum(1) * inputs["advantages"]).mean() + inputs["advantages"].mean()
    agree((algorithm.policy, ours - loss_of_ratio), (trainer.model, theirs))
