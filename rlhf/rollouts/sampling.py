"""Ancestral sampling with a key-value cache: full softmax at one temperature, no truncation of the distribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer."""

    response: list[int]  # ids; the last is the end-of-turn token if the answer ended by itself
    terminated: bool


@torch.inference_mode()
def sample(
    policy: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    temperature: float,
    eos: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """One answer for each prompt (ids), in the order of `prompts`.

    Prompts of like length are decoded together, padded on the left. The same prompts, order, batch size and seed give
    the same answers. temperature 0 takes the likeliest token.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    generator = torch.Generator(policy.device).manual_seed(seed)
    answers: dict[int, Sample] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = _decode(policy, [prompts[i] for i in rows], max_tokens, temperature, eos, generator)
        answers.update(zip(rows, batch, strict=True))
        if progress:
            progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


def _decode(
    policy: PreTrainedModel,
    prompts: list[list[int]],
    max_tokens: int,
    temperature: float,
    eos: int,
    generator: torch.Generator,
) -> list[Sample]:
    """Sample until every row has ended or has `max_tokens` tokens."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=policy.device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
    cache, head = DynamicCache(config=policy.config), policy.get_output_embeddings()
    tokens = torch.zeros((len(prompts), 0), dtype=torch.int64, device=policy.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=policy.device)
    step = ids
    for _ in range(max_tokens):
        position = (attention.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
        states = policy.base_model(
            input_ids=step, attention_mask=attention, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        step = _draw(head(states).float(), temperature, generator)
        tokens = torch.cat([tokens, step], dim=1)
        ended |= step.squeeze(1) == eos
        if ended.all():
            break
        attention = torch.cat([attention, torch.ones_like(step)], dim=1)
    return [_until(row, eos) for row in tokens.tolist()]


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """One token a row, (B, 1), by inverse transform; the likeliest at temperature 0."""
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    threshold = torch.rand((len(logits), 1), generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)


def _until(tokens: list[int], eos: int) -> Sample:
    return Sample(tokens[: tokens.index(eos) + 1], True) if eos in tokens else Sample(tokens, False)
