"""Sampling agrees with scoring: same model, same positions, same temperature."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf.batching.batches import pad
from rlhf.batching.encoding import Turn
from rlhf.config.training import DecodingConfig, TokensConfig
from rlhf.models import kernels
from rlhf.models.kernels import prepare
from rlhf.models.machine import precision
from rlhf.models.scoring import token_log_probs
from rlhf.rollouts import sampling
from rlhf.rollouts.cache import PreallocatedCache
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.sampling import Sample, sample
from tests.algorithms.tiny import tiny_policy

WIDTH = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}


def llama() -> PreTrainedModel:
    return sharp(tiny_policy())


def qwen() -> PreTrainedModel:
    """Biases, heads that share keys and values, a head that is the embedding, norms that scale."""
    config = Qwen2Config(**WIDTH, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    model = prepare(sharp(Qwen2ForCausalLM(config)))
    for weight in model.parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, mean=1.0, std=0.4)
    return model


def biased() -> PreTrainedModel:
    """A Llama whose every linear layer has a bias, the head too."""
    config = LlamaConfig(**WIDTH, num_attention_heads=2, attention_bias=True, mlp_bias=True)
    model = prepare(sharp(LlamaForCausalLM(config)))
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(config.vocab_size))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.4)
    return model


def gpt2() -> PreTrainedModel:
    """Learned positions, unlike Llama's: wrong positions under padding show."""
    return sharp(GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2)))


def sliding() -> PreTrainedModel:
    """Layers that attend to the last four tokens only."""
    return sharp(
        MistralForCausalLM(MistralConfig(**WIDTH, sliding_window=4, num_attention_heads=2, num_key_value_heads=1))
    )


def sharp(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights so large that every token that is attended to matters."""
    torch.manual_seed(0)
    for weight in model.base_model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def leaning(logit: float) -> PreTrainedModel:
    """A policy with this much added to the logit of its end of turn, 1."""
    policy = tiny_policy()
    policy.lm_head.bias = torch.nn.Parameter(logit * torch.eye(policy.config.vocab_size)[1])
    return policy


PROMPTS = [[7, 8, 9, 10, 11, 12], [20, 21], [30, 31, 32]]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("make", [llama, qwen, biased, gpt2, sliding])
@pytest.mark.parametrize("laid_out", [False, True])
def test_answers_are_those_of_a_forward_pass_a_token(
    make: Callable[[], PreTrainedModel], temperature: float, laid_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cache, padding, shared prompts and rows that leave change nothing: not which token a random number draws."""
    monkeypatch.setattr(kernels, "one_dnn", lambda: True)
    monkeypatch.setattr(kernels, "_LAID_OUT", 0 if laid_out else 10**9)  # weights of so small models too, or none
    policy, steps = make(), 13
    prompts = [[5 + (i * j) % 200 for j in range(2, 4 + i % 8)] for i in range(1, 21) for _ in range(1 + i % 2)]
    noise = torch.rand((steps, len(prompts)), generator=torch.Generator().manual_seed(4))
    free = [plain(policy, p, noise[:, i], temperature) for i, p in enumerate(prompts)]
    rows_with = Counter(token for ids in free for token in set(ids))
    eos = max((t for t in rows_with if rows_with[t] < len(free)), key=lambda t: rows_with[t])  # some end, some do not
    found = sample(policy, prompts, max_tokens=steps, temperature=temperature, eos=eos, batch_size=25, seed=4)
    expected = [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in free]
    assert [a.response for a in found] == expected
    assert [a.terminated for a in found] == [eos in ids for ids in free]
    if temperature:
        batch = pad([Turn(p, a.response) for p, a in zip(prompts, found, strict=True)])
        with torch.no_grad():
            scored = token_log_probs(policy, batch, temperature=temperature).log_probs[batch.mask]
        drawn = torch.tensor([log_prob for a in found for log_prob in a.log_probs])
        torch.testing.assert_close(drawn, scored, rtol=0.0, atol=1e-5)
    assert len({len(ids) for ids in expected}) > 2


def plain(policy: PreTrainedModel, prompt: list[int], noise: torch.Tensor, temperature: float) -> list[int]:
    """An answer without cache, padding or end; by inverse transform of `noise`, (R,)."""
    ids = list(prompt)
    for number in noise:
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([ids])).logits[0, -1]
        cumulative = (logits / (temperature or 1.0)).softmax(-1).cumsum(-1)
        ids.append(int((cumulative <= number * cumulative[-1]).sum() if temperature else logits.argmax()))
    return ids[len(prompt) :]


def test_rows_that_all_end_at_once_or_never() -> None:
    options = {"max_tokens": 9, "temperature": 1.0, "eos": 1, "batch_size": 3, "seed": 0}
    assert sample(leaning(1e9), PROMPTS, **options) == [Sample([1], True, [0.0])] * 3
    assert [(len(a.response), a.terminated) for a in sample(leaning(-1e9), PROMPTS, **options)] == [(9, False)] * 3


def test_a_prompt_is_read_once_and_an_answer_that_has_ended_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, read, steps = leaning(3.5), [], []
    monkeypatch.setattr(sampling, "output_head", lambda _: policy.lm_head)
    policy.base_model.register_forward_pre_hook(
        lambda _, __, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    policy.lm_head.register_forward_pre_hook(lambda _, inputs: steps.append(len(inputs[0])))
    prompts = [*PROMPTS, [40, 41]] * 6
    answers = sample(policy, prompts, max_tokens=30, temperature=1.0, eos=1, batch_size=24, seed=0)
    lengths = [len(a.response) for a in answers]
    assert read == [(4, 6)]
    assert sum(lengths) <= sum(steps) <= sum(lengths) + 3 * len(lengths)  # at most three tokens more than drawn
    assert sum(lengths) < 15 * len(lengths)


def test_first_tokens_follow_the_softmax_at_the_temperature() -> None:
    policy, draws, temperature = tiny_policy(), 20_000, 0.3
    answers = sample(policy, [[7, 8, 9]] * draws, max_tokens=1, temperature=temperature, eos=1, batch_size=2000, seed=3)
    counts = torch.bincount(torch.tensor([a.response[0] for a in answers]), minlength=len(policy.lm_head.weight))
    with torch.no_grad():
        expected = (policy(torch.tensor([[7, 8, 9]])).logits[0, -1] / temperature).softmax(-1)
    error = (counts / draws - expected).abs() / (expected * (1 - expected) / draws).sqrt()
    assert error.max() < 5.0  # standard errors, over about 260 tokens


def test_scores_are_taken_at_the_sampling_temperature() -> None:
    policy, batch = tiny_policy(), pad([Turn([7, 8], [9, 1])])
    with torch.no_grad():
        logits = policy(input_ids=batch.ids).logits / 0.7
        scores = token_log_probs(policy, batch, temperature=0.7, entropy=True)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(scores.log_probs[0, 2], expected[0, 1, 9])
    torch.testing.assert_close(scores.log_probs[0, 3], expected[0, 2, 1])
    torch.testing.assert_close(scores.entropy[0, 2], -(expected[0, 1].exp() * expected[0, 1]).sum())
    assert scores.log_probs[0, :2].tolist() == [0.0, 0.0]


def test_an_answer_ends_at_its_first_end_of_turn() -> None:
    policy = tiny_policy()
    found = sample(policy, PROMPTS * 50, max_tokens=40, temperature=1.0, eos=1, batch_size=64, seed=0)
    ended = [a for a in found if a.terminated]
    assert ended
    assert all(a.response.index(1) == len(a.response) - 1 for a in ended)
    assert all(1 not in a.response and len(a.response) == 40 for a in found if not a.terminated)


def test_the_same_seed_gives_the_same_answers() -> None:
    policy = tiny_policy()
    draw = lambda seed: sample(policy, PROMPTS, max_tokens=9, temperature=1.0, eos=1, batch_size=2, seed=seed)  # noqa: E731
    assert draw(5) == draw(5) != draw(6)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_outside_of_training_answers_are_drawn_in_the_precision_of_training(
    make: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache too: attention would cast it anew for every token."""
    monkeypatch.setenv("RLHF_PRECISION", "bf16")
    policy, kept = make(), list[torch.dtype]()
    behind = PreallocatedCache.behind

    def seen(*arguments: Any) -> PreallocatedCache:
        cache = behind(*arguments)
        kept.extend(layer.keys.dtype for layer in cache.layers)
        return cache

    monkeypatch.setattr(sampling.PreallocatedCache, "behind", seen)
    settings: dict[str, Any] = {"max_tokens": 9, "temperature": 1.0, "eos": 1, "seed": 5}
    draw = sampler(DecodingConfig(engine="own", gpu_memory=0.4), tmp_path, TokensConfig(prompt=16, response=9), 4)
    drawn = draw(policy, PROMPTS, **settings)
    assert set(kept) == {torch.bfloat16}
    turns = [Turn(prompt, one.response) for prompt, one in zip(PROMPTS, drawn, strict=True)]
    with precision(policy.device):
        scored = token_log_probs(policy, pad(turns))
    here = torch.tensor([log_prob for one in drawn for log_prob in one.log_probs])
    assert (here - scored.log_probs[pad(turns).mask]).abs().mean() < 0.02
    assert sample(policy, PROMPTS, batch_size=4, **settings)[0].log_probs != drawn[0].log_probs
