"""Model directories: what is saved is what transformers loads, and what is missing is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config, LlamaConfig, LlamaForCausalLM

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.config.training import LoraConfig
from rlhf.errors import DataError
from rlhf.models.loading import (
    load_policy,
    load_reward_model,
    load_tokenizer,
    require_fit,
    save_model,
    scalar_model_from,
)
from rlhf.models.lora import adapt
from rlhf.models.scoring import linear_head, linear_values, rewards, states_before, token_log_probs
from rlhf.rollouts.trial import require_read_alike
from rlhf.training.snapshots import Snapshots
from tests.algorithms.tiny import tiny_policy, tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tiny_policy(), tiny_tokenizer(), tmp_path / "model", title="Tiny", summary="Random weights.")
    return tmp_path / "model"


def test_a_saved_model_is_one_that_transformers_loads(saved: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(saved), AutoModelForCausalLM.from_pretrained(saved)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False) == "<|user|>red<|end|>"
    assert torch.equal(model.lm_head.weight, tiny_policy().lm_head.weight)
    assert not list(saved.glob("*.bin"))
    assert "# Tiny" in (saved / "README.md").read_text()


def test_a_reward_model_comes_back_as_it_was(saved: Path, tmp_path: Path) -> None:
    model = scalar_model_from(saved, 0)
    save_model(model, tiny_tokenizer(), tmp_path / "reward", title="r", summary="s")
    assert torch.equal(load_reward_model(tmp_path / "reward").score.weight, model.score.weight)


def test_pad_is_not_the_end_of_turn(saved: Path) -> None:
    tokenizer = load_tokenizer(saved)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    for text in ("red green", "naïve café 日本 🎉", "  two  spaces\n\ttab", "2026"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_directory_without_a_tokenizer_is_named(saved: Path) -> None:
    for file in saved.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match=f"{saved} has no tokenizer"):
        load_tokenizer(saved)


def test_a_tokenizer_without_a_chat_template_is_named(saved: Path) -> None:
    (saved / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="has no chat template"):
        load_tokenizer(saved)


def test_a_head_that_scoring_does_not_apply_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(DataError, match="final_logit_softcapping"):
        load_policy(saved)


def test_rewards_are_read_at_the_last_token_whatever_the_padding(saved: Path) -> None:
    model = scalar_model_from(saved, 0)
    short, long = Turn([7, 8], [9, 1]), Turn([7, 8, 9, 10, 11], [12, 13, 1])
    with torch.no_grad():
        together = rewards(model, pad([short, long]))
        states = model.model(torch.tensor([short.prompt + short.response])).last_hidden_state[:, -1]
    torch.testing.assert_close(together[0], model.score(states)[0, 0])


def test_of_several_processes_the_first_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "step-00000002.safetensors").touch()
    snapshots = Snapshots(tiny_policy(), kept, count=1, total_steps=4)
    for rank, written in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        target = tmp_path / rank
        target.mkdir()
        save_model(tiny_policy(), tiny_tokenizer(), target, title="tiny", summary="A test.")
        snapshots.copy_to(target, end=4)
        found = {"model.safetensors", "step-00000002.safetensors"} & {file.name for file in target.iterdir()}
        assert len(found) == 2 * written


def test_what_reads_pictures_does_not_learn(tmp_path: Path) -> None:
    """And a linear head fits a model whose width stands in a part of its configuration."""
    torch.manual_seed(0)
    text = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 5, "max_position_embeddings": 64}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    tokens = {"mm_tokens_per_image": 1, "image_token_index": 39, "boi_token_index": 38, "eoi_token_index": 37}
    seeing = AutoModelForCausalLM.from_config(Gemma3Config(text_config=text, vision_config=vision, **tokens))
    save_model(seeing, tiny_tokenizer(), tmp_path, title="tiny", summary="A test.")

    policy = load_policy(tmp_path)
    require_read_alike(policy, tmp_path, eos=1, longest=15)
    batch = pad([Turn([5, 6, 7], [9, 10, 1]), Turn([20], [22])])
    linear_values(linear_head(policy), states_before(policy, batch), batch)
    token_log_probs(policy, batch).log_probs.sum().backward()
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == {
        name for name, weight in policy.named_parameters() if weight.grad is not None
    }
    adapted = adapt(load_policy(tmp_path), LoraConfig(rank=2, alpha=4, target_modules="all-linear"), 0)
    assert {name.split(".")[1] for name, weight in adapted.named_parameters() if weight.requires_grad} == {
        "language_model"
    }
    reward = scalar_model_from(tmp_path, 0)
    rewards(reward, batch).sum().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in reward.parameters())


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4},
    ],
)
def test_positions_that_depend_on_other_rows_are_refused(rope: dict[str, Any]) -> None:
    sizes = {"vocab_size": 288, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2)
    config.max_position_embeddings = 128
    config.rope_parameters = rope | {"rope_theta": 1e4, "original_max_position_embeddings": 32}
    model = LlamaForCausalLM(config)
    require_fit(model, tiny_tokenizer(), "here", prompt=24, response=8)
    with pytest.raises(DataError, match="in a batch with a row of more than 32 tokens"):
        require_fit(model, tiny_tokenizer(), "here", prompt=24, response=9)
