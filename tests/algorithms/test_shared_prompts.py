"""A prompt that several answers share is read once, and no loss or gradient can tell."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig

from rlhf.algorithms.dpo import Dpo
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.online import Experience, MicroBatch
from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.supervised import LikelihoodObjective
from rlhf.batching import layout
from rlhf.batching.batches import RankedTurns, SequenceBatch, make_batch, pad, pad_rankings
from rlhf.batching.encoding import Turn
from rlhf.batching.layout import rounded
from rlhf.models import kernels
from rlhf.models.kernels import prepare, reads_packed
from rlhf.models.scoring import sequence_log_probs
from tests.algorithms.tiny import PARAMS, groups

MODELS = {
    "llama": LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0,
    ),
    "gpt2": GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64, pad_token_id=0),
}  # fmt: skip
for config in MODELS.values():
    config.num_labels = 1
# Uneven lengths, answers of one token, a prompt with one answer, one of one token.
GROUPS = [
    *groups(5),
    RankedTurns((Turn([7], [8]), Turn([7], [9, 10, 1]), Turn([7], [11])), (1, 2, 2)),
    RankedTurns((Turn([5, 6, 7], [8]), Turn([5, 6, 7], [9])), (2, 1)),
]
ANSWERS = [*[t for g in GROUPS for t in g.answers], Turn([20, 21, 22], [23, 1])]


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Callable[[type], nn.Module]:
    def make(kind: type) -> nn.Module:
        torch.manual_seed(0)
        return prepare(kind.from_config(deepcopy(MODELS[request.param])).eval())  # type: ignore[attr-defined]

    return make


def apart(batch: SequenceBatch) -> SequenceBatch:
    """The same batch, a copy of the prompt for each answer."""
    separate = make_batch(batch.ids, batch.attention, batch.mask, batch.starts, torch.arange(len(batch)))
    assert len(batch.layout.ids) < len(separate.layout.ids) < batch.ids.numel(), "not shared, or padded"
    return separate


def agree(objective: nn.Module, shared: object, separate: object) -> None:
    """Loss and gradient of the two are equal."""
    found = []
    for batch in (shared, separate):
        objective.zero_grad()
        loss = objective(batch)[0]
        loss.backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])))
    torch.testing.assert_close(*(f[0] for f in found), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*(f[1] for f in found), rtol=1e-5, atol=1e-5 * float(found[1][1].abs().max()))


def test_reward_and_dpo(model: Callable[[type], nn.Module]) -> None:
    batch, rows = pad_rankings(GROUPS), np.arange(len(GROUPS))
    separate = replace(batch, sequences=apart(batch.sequences))
    reference = batch.per_answer(torch.randn(len(batch.sequences)))
    dpo = Dpo(model(AutoModelForCausalLM), reference, PARAMS.align.dpo)
    reward = RewardObjective(model(AutoModelForSequenceClassification), center=0.1)
    for objective in (dpo, reward):
        agree(objective, (rows, batch), (rows, separate))


def test_supervised_and_grpo(model: Callable[[type], nn.Module]) -> None:
    batch, policy = pad(ANSWERS), model(AutoModelForCausalLM)
    agree(LikelihoodObjective(policy), batch, apart(batch))
    torch.manual_seed(1)
    old = {name: torch.randn(batch.ids.shape) for name in ("log_probs", "reference", "advantages")}

    def experience(some: SequenceBatch) -> MicroBatch:
        return MicroBatch(Experience(some, old), first=False)

    agree(Grpo(policy, PARAMS.align.grpo, max_tokens=9), experience(batch), experience(apart(batch)))


def test_a_subset_of_rows_is_laid_out_anew(model: Callable[[type], nn.Module]) -> None:
    """Part of a group, and rows of different groups side by side."""
    batch, policy = pad(ANSWERS), model(AutoModelForCausalLM)
    index = torch.tensor([1, 2, 0, 9, 3, 4, 5, 6])
    with torch.no_grad():
        whole, some = sequence_log_probs(policy, apart(batch)), sequence_log_probs(policy, batch.rows(index))
    torch.testing.assert_close(some, whole[index], rtol=1e-5, atol=1e-5)


def test_every_token_stands_once() -> None:
    """In a row of one of few lengths, prompts that answers share with the first of them."""
    batch = pad(ANSWERS)
    packed = batch.layout
    read = [packed.ids[places[there]].tolist() for places, there in zip(packed.places, batch.attention, strict=True)]
    assert read == [t.prompt + t.response for t in ANSWERS]
    positions = [packed.positions[p[there]].tolist() for p, there in zip(packed.places, batch.attention, strict=True)]
    assert positions == [list(range(len(row))) for row in read]
    used = packed.places[batch.attention].unique()
    tokens = sum(g.tokens for g in GROUPS) + 5
    assert used.tolist() == list(range(tokens))
    assert len(packed.ids) == rounded(tokens)
    assert [rounded(n) for n in (1, 64, 65, 1024, 1025, 2048, 2049, 5000)] == [
        64,
        64,
        128,
        1024,
        1088,
        2048,
        2176,
        5120,
    ]


@pytest.mark.parametrize(("block", "written"), [(2**16, 2**16), (400, 400), (1, 2**16), (400, 0), (2**16, 0)])
def test_a_prepared_model_is_the_model(
    model: Callable[[type], nn.Module], block: int, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities and their gradient are those of transformers' own modules, which read the padded table; however
    many rows attention takes at once, and whoever attends."""
    monkeypatch.setattr(layout, "SCORES", block)
    monkeypatch.setattr(kernels, "SCORES", written)
    monkeypatch.setattr("rlhf.batching.layout.on_gpu", lambda: False)
    prepared, batch = model(AutoModelForCausalLM), pad(ANSWERS)
    assert (len(batch.layout.blocks) > 1) == (block < 2**16)
    assert any(b.starts is not None for b in batch.layout.blocks) == (block < 2**16)
    plain = type(prepared)(prepared.config).eval()
    plain.load_state_dict(prepared.state_dict())
    plain.set_attn_implementation("sdpa")
    found = []
    for policy in (plain, prepared):
        log_probs = sequence_log_probs(policy, batch)
        log_probs.sum().backward()
        found.append((log_probs, torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5 * float(found[0][1].abs().max()))


@pytest.mark.parametrize("change", [{"sliding_window": 4}, {"layer_types": ["full_attention", "linear_attention"]}])
def test_a_model_that_attends_otherwise_reads_the_table(change: dict[str, object]) -> None:
    config = deepcopy(MODELS["llama"])
    for name, value in change.items():
        setattr(config, name, value)
    plain, batch = AutoModelForCausalLM.from_config(MODELS["llama"]).eval(), pad(ANSWERS)
    plain.config = config
    assert not reads_packed(prepare(plain))
    seen: list[torch.Size] = []
    plain.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    sequence_log_probs(plain, batch)
    assert seen == [batch.ids.shape]
