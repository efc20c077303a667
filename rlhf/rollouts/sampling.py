"""Ancestral sampling with a key-value cache: full softmax at one temperature, no truncation of the distribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from rlhf.models.kernels import PACKED
from rlhf.models.machine import product_dtype
from rlhf.models.processes import how_many, shared_out
from rlhf.rollouts.cache import PreallocatedCache
from rlhf.rollouts.decoder import Decoder, decoder, output_head

_READ = 16  # prompts that one pass reads: few, so that they are of like length and their activations stay in the cache
_READ_ON_GPU = 2**15  # tokens of them: enough to keep it busy
_STRIDE = 4  # tokens between one look at which rows have ended and the next


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer."""

    response: list[int]  # ids; the last is the end-of-turn token if the answer ended by itself
    terminated: bool
    # of each token, as it was drawn; at temperature 0 they mean nothing, and they are empty where nobody kept them
    log_probs: Sequence[float] = ()


class Sampler(Protocol):
    """`sample` with a batch size, or what samples in its place (engine.py)."""

    def __call__(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        temperature: float,
        eos: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Sample]:
        """One answer of the policy as it is now for each prompt (ids), in the order of `prompts`."""


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

    Prompts of like length are decoded together, the longest first: what they take is enough for those that follow. A
    prompt that a batch holds several times is read once. Every answer has random numbers of its own, so the same
    prompts, order, batch size, number of processes and seed give the same answers. Processes share the batches, which
    are smaller where not all would have as many. temperature 0 takes the likeliest token.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]), reverse=True)
    generator = torch.Generator(policy.device).manual_seed(seed)
    noise = torch.rand((max_tokens, len(prompts)), generator=generator, device=policy.device)
    decode, head, processes = decoder(policy), output_head(policy), how_many()
    done, rounds = 0, -(-len(order) // (batch_size * processes))  # in each of which every process has a batch
    at_once = batch_size if processes == 1 else max(1, -(-len(order) // max(1, rounds * processes)))

    def answer(rows: Sequence[int]) -> list[Sample]:
        nonlocal done
        tokens, log_probs = _decode(policy, decode, head, [prompts[i] for i in rows], noise[:, rows], temperature, eos)
        done += len(rows)
        if progress:
            progress(min(done * processes, len(order)), len(order))
        return [_until(*row, eos) for row in zip(tokens.tolist(), log_probs.tolist(), strict=True)]

    found = shared_out(answer, [order[start : start + at_once] for start in range(0, len(order), at_once)])
    answers = dict(zip(order, chain.from_iterable(found), strict=True))
    return [answers[i] for i in range(len(prompts))]


def _decode(
    policy: PreTrainedModel,
    decode: Decoder,
    head: Callable[[Tensor], Tensor],
    prompts: Sequence[list[int]],
    noise: Tensor,
    temperature: float,
    eos: int,
) -> tuple[Tensor, Tensor]:
    """Tokens of a batch and their log-probabilities, (B, R) each; what follows an end of turn has no meaning.

    noise: (R, B), uniform in [0, 1).

    A row has columns for its prompt, padded on the left, and R for its answer. Rows that have ended leave the batch.
    """
    steps, width = len(noise), max(map(len, prompts))
    states, cache = _prefill(policy, prompts, width + steps)
    columns = -(-(width + steps) // 8) * 8  # a kernel of GPUs copies a mask whose rows begin elsewhere
    positions = _positions([len(p) for p in prompts], width, columns, policy.device)
    mask, rows = _mask(policy, positions, product_dtype(states)), torch.arange(len(prompts), device=policy.device)
    tokens, ended = torch.full((steps, len(rows)), eos, device=rows.device), torch.zeros_like(rows, dtype=torch.bool)
    log_probs = torch.zeros_like(noise)
    for step in range(steps):
        token, log_probs[step, rows] = _draw(head(states), noise[step, rows], temperature)
        tokens[step, rows] = token
        ended |= token == eos
        if (step + 1) % _STRIDE == 0 and len(stay := _staying(ended)) < len(rows):
            cache.keep(stay)
            rows, token, ended, positions, mask = (x[stay] for x in (rows, token, ended, positions, mask))
        if step + 1 == steps or not len(rows):
            break
        end = width + step + 1
        states = decode(token, positions[:, end - 1], mask[..., :end], cache)
    return tokens.T, log_probs.T


def _prefill(policy: PreTrainedModel, prompts: Sequence[list[int]], length: int) -> tuple[Tensor, PreallocatedCache]:
    """Hidden states at the end of each prompt, (B, d), and a cache of `length` columns.

    A prompt that stands in several rows side by side is read once.
    """
    runs = [(prompt, len(list(run))) for prompt, run in groupby(prompts)]
    states, filled = [], []
    at_once = _READ if policy.device.type == "cpu" else max(1, _READ_ON_GPU // max(map(len, prompts)))
    for start in range(0, len(runs), at_once):
        some, counts = zip(*runs[start : start + at_once], strict=True)
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


def _mask(policy: PreTrainedModel, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """The attention mask of new tokens, of which each step takes the columns that there are.

    Where every layer attends to all columns it is what is added to the attention's logits, (B, 1, 1, length). Else it
    says what is not padding, (B, length), and transformers makes the mask of each kind of layer from it at each step.
    """
    seen = positions >= 0
    sliding = any(DynamicCache(config=policy.config).is_sliding)
    if sliding or policy.config._attn_implementation not in ("sdpa", "eager", PACKED):
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)[:, None, None]


def _draw(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, (B,) each, by inverse transform of `noise`, (B,) in [0, 1).

    At temperature 0 the likeliest token, and zero.
    """
    if temperature == 0.0:
        return logits.argmax(dim=-1), torch.zeros_like(noise)
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = noise[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    likely = probabilities.gather(1, token).clamp(min=torch.finfo().tiny)  # a GPU's sums may rise where nothing is
    return token.squeeze(1), likely.squeeze(1).log()


def _staying(ended: Tensor) -> Tensor:
    """Rows that have not ended, in their order, but that the last of them take the places of those that have."""
    live = (~ended).nonzero().squeeze(1)
    stay = torch.arange(len(live), device=ended.device)
    stay[ended[: len(live)]] = live[live >= len(live)]
    return stay


def _until(tokens: list[int], log_probs: list[float], eos: int) -> Sample:
    end = tokens.index(eos) + 1 if eos in tokens else len(tokens)
    return Sample(tokens[:end], eos in tokens, log_probs[:end])
