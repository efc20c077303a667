"""SFT, reward model, DPO and its variants, KTO."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.ipo import Ipo
from rlhf.algorithms.kto import Judged, Kto, kto_steps, mismatched
from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.supervised import LikelihoodObjective
from rlhf.batching.batches import RankedTurns, pad, pad_rankings
from rlhf.batching.encoding import Turn
from rlhf.models.loading import save_model, scalar_model_from
from rlhf.models.scoring import turn_log_probs
from tests.algorithms.tiny import PARAMS, loop, tiny_policy, turns
from tests.parity.conftest import agree, tokenizer

ROWS = [{"prompt": "red green", "completion": " one", "chosen": " one", "rejected": " two"}]
PROMPTS, ANSWERS = turns(12, seed=3), turns(24, seed=4)
PAIRS = [
    RankedTurns((Turn(p.prompt, ANSWERS[2 * i].response), Turn(p.prompt, ANSWERS[2 * i + 1].response)), (1, 2))
    for i, p in enumerate(PROMPTS)
]


def sequences(rows: list[Turn]) -> dict[str, torch.Tensor]:
    """Turns as TRL's collators lay them out."""
    batch = pad(rows)
    return {
        "input_ids": batch.ids,
        "attention_mask": batch.attention.long(),
        "completion_mask": batch.mask.long(),
    }


def chosen_then_rejected(pairs: list[RankedTurns]) -> list[Turn]:
    return [p.answers[0] for p in pairs] + [p.answers[1] for p in pairs]


def test_sft(trl: Callable[..., Any]) -> None:
    trainer = trl("SFT", tiny_policy(), [{"text": "red green"}])
    batch = sequences(PROMPTS)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    theirs = trainer.compute_loss(trainer.model, batch | {"labels": labels})
    ours = LikelihoodObjective(tiny_policy())
    total, _ = ours(pad(PROMPTS))
    agree((ours.policy, total / pad(PROMPTS).count), (trainer.model, theirs))


def test_reward(trl: Callable[..., Any], tmp_path: Any) -> None:
    """With centering, of which theirs has the square of a pair's sum and ours that of its mean."""
    save_model(tiny_policy(), tokenizer(), tmp_path / "sft", title="tiny", summary="random")
    model = scalar_model_from(tmp_path / "sft", 0)
    model.config.pad_token_id = 0
    trainer = trl("Reward", model, ROWS, center_rewards_coefficient=0.1)
    batch = sequences(chosen_then_rejected(PAIRS))
    del batch["completion_mask"]
    theirs = trainer.compute_loss(trainer.model, batch)
    ours = RewardObjective(scalar_model_from(tmp_path / "sft", 0), center=0.4)
    total, _ = ours((np.arange(len(PAIRS)), pad_rankings(PAIRS)))
    agree((ours.reward_model, total / len(PAIRS)), (trainer.model, theirs))


def dpo_loss(trl: Callable[..., Any], pairs: list[RankedTurns], **options: Any) -> tuple[Any, torch.Tensor]:
    """TRL's DPO, whose policy has moved away from its reference."""
    trainer = trl("DPO", tiny_policy(1), ROWS, init={"ref_model": tiny_policy(0)}, **options)
    return trainer.model, trainer._compute_loss(trainer.model, sequences(chosen_then_rejected(pairs)), False)


def our_loss(algorithm: type, pairs: list[RankedTurns], config: Any) -> tuple[Any, torch.Tensor]:
    objective = algorithm(tiny_policy(1), reference_log_probs(tiny_policy(0), pairs, 4), config)
    total, _ = objective((np.arange(len(pairs)), pad_rankings(pairs)))
    return objective.policy, total / len(pairs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"length_normalized": True}, {"loss_type": ["sigmoid_norm"]}),
    ],
)
def test_dpo(trl: Callable[..., Any], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    config = PARAMS.align.dpo.model_copy(update={"beta": 0.3} | ours)
    agree(our_loss(Dpo, PAIRS, config), dpo_loss(trl, PAIRS, beta=0.3, **theirs))


def test_label_smoothing_is_the_numerator_of_their_robust_loss(trl: Callable[..., Any]) -> None:
    """TRL's `robust` is ((1 - e) L - e L') / (1 - 2e), cDPO is (1 - e) L + e L': L' is L - beta margin."""
    config = PARAMS.align.dpo.model_copy(update={"beta": 0.3, "label_smoothing": 0.1})
    smooth = our_loss(Dpo, PAIRS, config)[1]
    plain = our_loss(Dpo, PAIRS, config.model_copy(update={"label_smoothing": 0.0}))[1]
    flipped = (smooth - 0.9 * plain) / 0.1
    theirs = dpo_loss(trl, PAIRS, beta=0.3, loss_type=["robust"], label_smoothing=0.1)[1]
    torch.testing.assert_close((0.9 * plain - 0.1 * flipped) / 0.8, theirs, rtol=1e-5, atol=1e-5)


def test_dpo_with_an_sft_term(trl: Callable[..., Any]) -> None:
    """TRL's term is a mean over all tokens of the batch, ours over those of each answer: equal for equal lengths."""
    pairs = [
        RankedTurns(tuple(Turn(turn.prompt, (turn.response * 9)[:6]) for turn in pair.answers), pair.ranks)
        for pair in PAIRS
    ]
    config = PARAMS.align.dpo.model_copy(update={"beta": 0.3, "sft_coefficient": 0.5})
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    agree(our_loss(Dpo, pairs, config), dpo_loss(trl, pairs, beta=0.3, **options))
    ours, theirs = our_loss(Dpo, PAIRS, config)[1], dpo_loss(trl, PAIRS, beta=0.3, **options)[1]
    assert abs(float((ours - theirs).detach())) > 1e-3


def test_ipo(trl: Callable[..., Any]) -> None:
    """TRL's IPO is a mean over tokens, our `length_normalized`; the default sums them, as the paper writes it."""
    config = PARAMS.align.ipo.model_copy(update={"beta": 0.3, "length_normalized": True})
    theirs = dpo_loss(trl, PAIRS, beta=0.3, loss_type=["ipo"])
    agree(our_loss(Ipo, PAIRS, config), theirs)
    paper = our_loss(Ipo, PAIRS, config.model_copy(update={"length_normalized": False}))[1]
    assert abs(float(paper.detach() - theirs[1].detach())) > 0.1


def test_kto(trl: Callable[..., Any]) -> None:
    judged = [Judged(turn, number % 3 > 0) for number, turn in enumerate(PROMPTS)]
    others = mismatched(judged, 1)
    rows = [{"prompt": "red", "completion": " one", "label": bool(i % 2)} for i in range(4)]
    options = {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 2.0}
    trainer = trl("KTO", tiny_policy(1), rows, init={"ref_model": tiny_policy(0)}, **options)
    mixed = {f"KL_{name}": value for name, value in sequences(others).items()}
    inputs = sequences([row.turn for row in judged]) | mixed | {"label": torch.tensor([row.up for row in judged])}
    theirs = trainer._compute_loss(trainer.model, inputs, False)

    policy, section = tiny_policy(1), PARAMS.align.kto.model_copy(update={"beta": 0.3, "down_weight": 2.0})
    section = section.model_copy(update={"loop": loop(batch_size=12, micro_batch_size=5)})
    reference = torch.stack([turn_log_probs(tiny_policy(0), t, 4) for t in ([row.turn for row in judged], others)])
    objective = Kto(policy, section)
    step = next(kto_steps(policy, judged, others, reference, section, seed=1)[0](0))
    total = sum(objective(batch)[0] for batch in step.micro_batches)
    agree((policy, total / step.count), (trainer.model, theirs))
