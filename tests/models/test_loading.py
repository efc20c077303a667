"""Model directories: what is saved is what transformers loads, and what is missing is named."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_tokenizer, save_model, scalar_model_from
from rlhf.models.scoring import rewards
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
    from rlhf.batching.batches import pad
    from rlhf.batching.encoding import Turn

    model = scalar_model_from(saved, 0)
    short, long = Turn([7, 8], [9, 1]), Turn([7, 8, 9, 10, 11], [12, 13, 1])
    with torch.no_grad():
        together = rewards(model, pad([short, long]))
        states = model.model(torch.tensor([short.prompt + short.response])).last_hidden_state[:, -1]
    torch.testing.assert_close(together[0], model.score(states)[0, 0])
