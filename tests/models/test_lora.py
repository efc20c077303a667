"""An adapter learns, everything else stays to the bit, and what is saved is a whole model."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.rankings import ranking_steps
from rlhf.batching.batches import pad
from rlhf.errors import ConfigError
from rlhf.models.loading import load_policy, load_reward_model, save_model, scalar_model_from
from rlhf.models.lora import AdapterOff, adapt, merged_weights
from rlhf.models.scoring import rewards, token_log_probs
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from tests.algorithms.tiny import LORA, PARAMS, Silent, groups, loop, tiny_policy, tiny_tokenizer, turns

BATCH, RANKED = pad(turns(6)), groups(12)
SIZE = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 1}
MODELS = {
    "llama": tiny_policy,
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, **SIZE)).eval(),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **SIZE)
    ).eval(),
}


@torch.no_grad()
def log_probs(model: PreTrainedModel) -> Tensor:
    return token_log_probs(model, BATCH).log_probs


def learned(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def dpo(policy: PreTrainedModel, reference: Tensor) -> Dpo:
    return Dpo(policy, reference, PARAMS.align.dpo)


def trained(directory: Path) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A policy that has learned, with its frozen weights as they were before."""
    policy = adapt(tiny_policy(), LORA, 0)
    before = {name: p.clone() for name, p in policy.named_parameters() if not p.requires_grad}
    config = loop(optimizer=PARAMS.align.dpo.loop.optimizer.model_copy(update={"learning_rate": 0.03}))
    steps, total = ranking_steps(RANKED, config, epochs=4, seed=0)
    objective = dpo(policy, reference_log_probs(policy, RANKED, 4))
    train(objective, steps, total_steps=total, config=config, checkpoints=Checkpoints(directory), recorder=Silent())
    return policy, before


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_that_has_not_learned_changes_nothing(name: str) -> None:
    model = MODELS[name]()
    before = log_probs(model)
    assert type(adapt(model, LORA, 0)) is type(model)
    assert all(".lora_" in name for name in learned(model))
    assert torch.equal(log_probs(model), before)


def test_what_learns_has_the_rank_and_nothing_else_changes(tmp_path: Path) -> None:
    policy, before = trained(tmp_path)
    base, own = tiny_policy(), dict(policy.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in before.items())
    adapted = log_probs(policy)
    assert (adapted - log_probs(base)).abs().max() > 0.1
    with AdapterOff(policy) as reference:
        assert reference is policy, "no copy"
        assert torch.equal(log_probs(reference), log_probs(base))
    assert torch.equal(log_probs(policy), adapted)
    assert learned(policy).keys() == own.keys() - before.keys(), "it learns on"

    change = {name: value - base.state_dict()[name] for name, value in merged_weights(policy)}
    ranks = {int(torch.linalg.matrix_rank(value, rtol=1e-4)) for name, value in change.items() if "_proj" in name}
    assert ranks == {LORA.rank}
    assert not any(value.any() for name, value in change.items() if "_proj" not in name)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_a_whole_model_that_says_the_same(name: str, tmp_path: Path) -> None:
    plain, model = MODELS[name](), adapt(MODELS[name](), LORA, 0)
    for part in learned(model).values():
        nn.init.normal_(part, std=0.3)
    before = model.state_dict()
    for path, kind in ((tmp_path / "plain", plain), (tmp_path / "adapted", model)):
        save_model(kind, tiny_tokenizer(), path, title="tiny", summary="A test.")
    files = [{file.name for file in path.iterdir()} for path in (tmp_path / "plain", tmp_path / "adapted")]
    assert files[0] == files[1]
    weights = [load_file(tmp_path / path / "model.safetensors") for path in ("plain", "adapted")]
    assert weights[0].keys() == weights[1].keys()
    torch.testing.assert_close(log_probs(load_policy(tmp_path / "adapted")), log_probs(model), rtol=0, atol=1e-5)
    assert (log_probs(model) - log_probs(plain)).abs().max() > 0.01
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "saving changes nothing"


def test_what_is_merged_under_autocast_is_not_rounded(tmp_path: Path) -> None:
    policy, _ = trained(tmp_path)
    merged = dict(merged_weights(policy))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(weight, merged[name]) for name, weight in merged_weights(policy))


def test_the_gradient_is_that_of_all_weights_seen_through_the_adapter() -> None:
    """With s = alpha / r and G = dL/dW at W + s B A: dL/dB = s G A^T, dL/dA = s B^T G."""
    policy, whole = adapt(tiny_policy(), LORA, 0), tiny_policy()
    for name, part in learned(policy).items():
        if "lora_B" in name:
            nn.init.normal_(part, std=0.3)
    whole.load_state_dict(dict(merged_weights(policy)))
    reference = reference_log_probs(tiny_policy(), RANKED, 4)
    for model in (policy, whole):
        (step,) = islice(ranking_steps(RANKED, loop(batch_size=12), epochs=1, seed=0)[0](0), 1)
        for batch in step.micro_batches:
            dpo(model, reference)(batch)[0].backward()
    scale, parts, full = LORA.alpha / LORA.rank, learned(policy), dict(whole.named_parameters())
    layers = {name.partition(".lora_")[0] for name in parts}
    assert len(layers) == 2 * 7, "all linear layers"
    for layer in layers:
        a, b = (parts[f"{layer}.lora_{kind}.default.weight"] for kind in "AB")
        g = full[f"{layer}.weight"].grad
        torch.testing.assert_close(b.grad, scale * g @ a.T, rtol=1e-4, atol=5e-5)
        torch.testing.assert_close(a.grad, scale * b.T @ g, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_as_many_numbers_learn_as_the_rank_says(targets: str | list[str]) -> None:
    linear = {
        name: module.in_features + module.out_features
        for name, module in tiny_policy().base_model.named_modules()
        if isinstance(module, nn.Linear) and (targets == "all-linear" or name.rpartition(".")[2] in targets)
    }
    policy = adapt(tiny_policy(), LORA.model_copy(update={"target_modules": targets}), 0)
    assert sum(p.numel() for p in learned(policy).values()) == LORA.rank * sum(linear.values())


@pytest.mark.parametrize("name", ["lm_head", "q_projection"])
def test_a_target_that_the_body_lacks_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"names {name}, .* down_proj, gate_proj, k_proj"):
        adapt(tiny_policy(), LORA.model_copy(update={"target_modules": ["q_proj", name]}), 0)


def test_what_is_drawn_is_a_function_of_the_seed() -> None:
    first, again, other = (whole(seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def whole(seed: int) -> Tensor:
    return torch.cat([p.flatten() for p in learned(adapt(tiny_policy(), LORA, seed)).values()])


def test_the_head_of_a_reward_model_learns_whole(tmp_path: Path) -> None:
    save_model(tiny_policy(), tiny_tokenizer(), tmp_path / "sft", title="tiny", summary="A test.")
    model = adapt(scalar_model_from(tmp_path / "sft", 0), LORA, 0)
    assert {name for name in learned(model) if "lora" not in name} == {"score.weight"}
    for part in learned(model).values():
        nn.init.normal_(part, std=0.3)
    save_model(model, tiny_tokenizer(), tmp_path / "reward", title="tiny", summary="A test.")
    with torch.no_grad():
        found, expected = (rewards(judge, BATCH) for judge in (load_reward_model(tmp_path / "reward"), model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_checkpoint_holds_what_learns(tmp_path: Path) -> None:
    policy, _ = trained(tmp_path)
    (weights, *_) = tmp_path.glob("step-*/weights.safetensors")
    assert load_file(weights).keys() == {f"policy.{name}" for name in learned(policy)}
