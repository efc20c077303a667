"""Ancestral sampling with a key-value cache: full softmax at one temperature, no truncation of the distribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from rlhf.models.kernels import PACKED
from rlhf.rollouts.cache import PreallocatedCache
from rlhf.rollouts.decoder import decoder

_READ = 16  # prompts that one pass reads: few, so that they are of like length and their activations stay in the cache
_STRIDE = 4  # tokens between one look at which rows have ended and the next


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

    Prompts of like length are decoded together; a prompt that a batch holds several times is read once. Every answer
    has random numbers of its own, so the same prompts, order, batch size and seed give the same answers. temperature 0
    takes the likeliest token.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    generator = torch.Generator(policy.device).manual_seed(seed)
    noise = torch.rand((max_tokens, len(prompts)), generator=generator, device=policy.device)
    answers: dict[int, Sample] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = _decode(policy, [prompts[i] for i in rows], noise[:, rows], temperature, eos)
        answers.update(zip(rows, [_until(ids, eos) for ids in tokens.tolist()], strict=True))
        if progress:
            progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


def _decode(
    policy: PreTrainedModel, prompts: Sequence[list[int]], noise: Tensor, temperature: float, eos: int
) -> Tensor:
    """Tokens of a batch, (B, R); what follows an end of turn has no meaning. noise: (R, B), uniform in [0, 1).

    A row has columns for its prompt, padded on the left, and R for its answer. Rows that have ended leave the batch.
    """
    head, decode, steps, width = policy.get_output_embeddings(), decoder(policy), len(noise), max(map(len, prompts))
    states, cache = _prefill(policy, prompts, width + steps)
    positions = _positions([len(p) for p in prompts], width, width + steps, policy.device)
    mask, rows = _mask(policy, positions), torch.arange(len(prompts), device=policy.device)
    tokens, ended = torch.full((steps, len(rows)), eos, device=rows.device), torch.zeros_like(rows, dtype=torch.bool)
    for step in range(steps):
        token = _draw(head(states), noise[step, rows], temperature)
        tokens[step, rows] = token
        ended |= token == eos
        if (step + 1) % _STRIDE == 0 and len(stay := _staying(ended)) < len(rows):
            cache.keep(stay)
            rows, token, ended, positions, mask = (x[stay] for x in (rows, token, ended, positions, mask))
        if step + 1 == steps or not len(rows):
            break
        end = width + step + 1
        states = decode(token, positions[:, end - 1], mask[..., :end], cache)
    return tokens.T


def _prefill(policy: PreTrainedModel, prompts: Sequence[list[int]], length: int) -> tuple[Tensor, PreallocatedCache]:
    """Hidden states at the end of each prompt, (B, d), and a cache of `length` columns.

    A prompt that stands in several rows side by side is read once.
    """
    runs = [(prompt, len(list(run))) for prompt, run in groupby(prompts)]
    states, filled = [], []
    for start in range(0, len(runs), _READ):
        some, counts = zip(*runs[start : start + _READ], strict=True)
        width, cache = max(map(len, some)), DynamicCache()
        positions = _positions([len(p) for p in some], width, width, policy.device)
        output = policy.base_model(
            input_ids=torch.tensor([[0] * (width - len(p)) + p for p in some], device=policy.device),
            attention_mask=positions >= 0,
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        rows = torch.arange(len(some)).repeat_interleave(torch.tensor(counts)).to(policy.device)
        states.append(output.last_hidden_state[rows, -1])
        filled.append((cache, rows))
    return torch.cat(states), PreallocatedCache.behind(filled, max(map(len, prompts)), length)


def _positions(lengths: Sequence[int], width: int, length: int, device: torch.device) -> Tensor:
    """(B, length) position of each column when prompts end at column `width`; negative on padding."""
    return torch.arange(length, device=device) - torch.tensor([[width - n] for n in lengths], device=device)


def _mask(policy: PreTrainedModel, positions: Tensor) -> Tensor:
    """The attention mask of new tokens, of which each step takes the columns that there are.

    Where every layer attends to all columns it is what is added to the attention's logits, (B, 1, 1, length). Else it
    says what is not padding, (B, length), and transformers makes the mask of each kind of layer from it at each step.
    """
    seen = positions >= 0
    sliding = any(DynamicCache(config=policy.config).is_sliding)
    if sliding or policy.config._attn_implementation not in ("sdpa", "eager", PACKED):
        return seen
    return torch.zeros_like(seen, dtype=policy.dtype).masked_fill_(~seen, -torch.inf)[:, None, None]


def _draw(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """One token a row, (B,), by inverse transform of `noise`, (B,) in [0, 1); the likeliest at temperature 0."""
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    cumulative = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def _staying(ended: Tensor) -> Tensor:
    """Rows that have not ended, in their order, but that the last of them take the places of those that have."""
    live = (~ended).nonzero().squeeze(1)
    stay = torch.arange(len(live), device=ended.device)
    stay[ended[: len(live)]] = live[live >= len(live)]
    return stay


def _until(tokens: list[int], eos: int) -> Sample:
    return Sample(tokens[: tokens.index(eos) + 1], True) if eos in tokens else Sample(tokens, False)
