"""A model is taken in only where it is read as transformers reads it."""

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlhf.errors import DataError
from rlhf.models.kernels import prepare, reads_packed
from rlhf.rollouts.trial import require_read_alike
from tests.algorithms.tiny import tiny_policy

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def small(kind: str, **changes: Any) -> PreTrainedModel:
    """A model of a type, with weights large enough that what is read otherwise shows."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | changes), dtype=torch.float32)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return prepare(model.eval())


@pytest.mark.parametrize(
    ("kind", "changes", "packed"),
    [
        ("llama", {}, True),
        ("qwen3", {}, True),
        ("mistral", {"sliding_window": 5}, False),
        ("gemma2", {"sliding_window": 5, "final_logit_softcapping": None, "attn_logit_softcapping": None}, False),
        ("phi3", {"sliding_window": None}, True),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}, True),
        (
            "deepseek_v3",  # its values are not as wide as its queries
            {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
            | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
            | {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "num_key_value_heads": 4, "head_dim": 4},
            True,
        ),
    ],
)
def test_what_is_read_alike_is_taken(kind: str, changes: dict[str, Any], packed: bool) -> None:
    model = small(kind, **changes)
    assert reads_packed(model) == packed
    require_read_alike(model, "here", eos=1, longest=15)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("doge", {"keep_window_size": 4}, "is read otherwise here than by transformers: by .* nats a token"),
        ("bloom", {"n_head": 4, "n_layer": 2}, "of type bloom, which cannot be scored and sampled from here: "),
        ("nemotron", {}, "of type nemotron, which cannot be scored and sampled from here: "),
        ("granite", {}, "of type granite, of which transformers has no AutoModelForSequenceClassification"),
    ],
)
def test_what_is_not_is_refused(kind: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        require_read_alike(small(kind, **changes), "here", eos=1, longest=15)


@pytest.mark.parametrize("factor", [0.5, math.nan])
def test_a_head_that_is_more_than_linear_is_refused(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    require_read_alike(policy, "here", eos=1, longest=15)
    whole = type(policy).forward

    def squashed(self: Any, *arguments: Any, **options: Any) -> Any:
        found = whole(self, *arguments, **options)
        found.logits = factor * found.logits
        return found

    monkeypatch.setattr(type(policy), "forward", squashed)
    with pytest.raises(DataError, match="here is of type llama, which is read otherwise here"):
        require_read_alike(policy, "here", eos=1, longest=15)
