"""Sampling answers: rlhf.rollouts against transformers' `generate`."""

import os
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from benchmarks.jobs import END, Job, turns
from benchmarks.measure import Measurement, memory_mb, now
from benchmarks.models import policy
from rlhf.models.kernels import prepare
from rlhf.models.machine import autocasts, precision
from rlhf.pipeline.process import keep_freed_memory
from rlhf.rollouts.sampling import sample

GREEDY = 16  # tokens of each of the answers that must be equal

Draw = Callable[[PreTrainedModel, list[list[int]], int, float], list[list[int]]]  # prompts, longest, temperature


def measure_ours(job: Job) -> Measurement:
    """`sample`, in the batches of the job."""
    keep_freed_memory()  # as the process of a stage does

    settings: dict[str, Any] = {"eos": END, "batch_size": job.batch, "seed": job.seed}

    def answers(model: PreTrainedModel, prompts: list[list[int]], longest: int, temperature: float) -> list[list[int]]:
        with precision(model.device):
            made = sample(model, prompts, max_tokens=longest, temperature=temperature, **settings)
        return [one.response for one in made]

    return _measure(job, answers, prepare)


def measure_peer(job: Job, tuned: bool) -> Measurement:
    """`generate`. Tuned: batches of like length, the longest first, no autograd, on a GPU weights in bf16, a static
    cache, which it compiles for, and attention that makes no plan for every new length."""
    torch.backends.cuda.enable_cudnn_sdp(not tuned)

    def answers(model: PreTrainedModel, prompts: list[list[int]], longest: int, temperature: float) -> list[list[int]]:
        rows = sorted(range(len(prompts)), key=lambda i: -len(prompts[i])) if tuned else list(range(len(prompts)))
        made: dict[int, list[int]] = {}
        for start in range(0, len(rows), job.batch):
            some = rows[start : start + job.batch]
            made.update(
                zip(some, _generate(model, [prompts[i] for i in some], longest, temperature, tuned), strict=True)
            )
        return [made[i] for i in range(len(prompts))]

    return _measure(job, answers, lambda model: model.bfloat16() if tuned and autocasts() else model)


def _measure(job: Job, answers: Draw, load: Callable[[PreTrainedModel], PreTrainedModel]) -> Measurement:
    """Twice the same answers, the second time on the clock; then greedy ones, to lay over each other: in fp32, since
    bf16 rounds away what decides between tokens that are nearly as likely."""
    model = load(policy(job, ends=True))
    prompts = [list(turn.prompt) for turn in turns(job) for _ in range(job.answers)]
    answers(model, prompts, job.answer.longest, 1.0)
    start = now()
    made = answers(model, prompts, job.answer.longest, 1.0)
    seconds, peak = now() - start, memory_mb()
    tokens = sum(map(len, made))
    os.environ["RLHF_PRECISION"] = "fp32"
    likeliest = answers(load(policy(job)), prompts[: job.batch : job.answers], GREEDY, 0.0)
    greedy = [float(i) for row in likeliest for i in [*row, *[END] * GREEDY][:GREEDY]]
    return Measurement(seconds, tokens, tokens + sum(map(len, prompts)), {"greedy tokens": greedy}, peak)


def _generate(
    model: PreTrainedModel, prompts: list[list[int]], longest: int, temperature: float, tuned: bool
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    drawing: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    )
    cache: dict[str, Any] = {"cache_implementation": "static"} if tuned and torch.cuda.is_available() else {}
    with torch.inference_mode(tuned), precision(model.device):
        rows = (
            cast(Any, model)
            .generate(input_ids=ids, attention_mask=attention, max_new_tokens=longest, **drawing, **cache)[:, width:]
            .tolist()
        )
    return [row[: row.index(END) + 1] if END in row else row for row in rows]
