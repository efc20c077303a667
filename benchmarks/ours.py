"""Our side of a job, through the functions that the stages call."""

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import profile
from transformers import PreTrainedModel

from benchmarks import models
from benchmarks.jobs import END, ONLINE, Job, rankings, recorded_answers, turns
from benchmarks.measure import Clock, Measurement, now
from rlhf.algorithms.dpo import Dpo, reference_log_probs
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.online import OnlineAlgorithm
from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.rloo import Rloo
from rlhf.algorithms.source import OnlineSource
from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.batching.batches import SequenceBatch
from rlhf.config import load_config
from rlhf.config.training import LoopConfig, OptimizerConfig
from rlhf.models.kernels import prepare
from rlhf.models.machine import precision
from rlhf.models.scoring import rewards
from rlhf.pipeline.process import keep_freed_memory
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample, sample
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.loop import train
from rlhf.training.step import Steps

PARAMS = load_config(Path(__file__).parents[1] / "params.yaml").align
BETA, KL = 0.1, 0.04  # beta of DPO, and of GRPO and RLOO, on both sides


def policy(job: Job, *, ends: bool = False) -> PreTrainedModel:
    """As every policy is loaded."""
    return prepare(models.policy(job, ends=ends))


def scalar_model(job: Job, offset: int = 0) -> PreTrainedModel:
    """As every reward model is loaded."""
    return prepare(models.scalar_model(job, offset))


def loop(job: Job) -> LoopConfig:
    """AdamW as transformers' Trainer has it, a rate that falls in a line, and no checkpoint."""
    optimizer = OptimizerConfig(
        learning_rate=job.learning_rate,
        warmup=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        eps=1e-8,
        max_grad_norm=1e9 if job.stage == "ppo" else 1.0,  # TRL's PPO does not clip
    )
    return LoopConfig(
        batch_size=job.batch,
        micro_batch_size=job.batch,
        checkpoint_every=job.steps * job.epochs + 1,
        max_setbacks=0,
        gradient_checkpointing=False,
        optimizer=optimizer,
    )


def measure(job: Job, profiler: profile | None = None) -> Measurement:
    """Train, and report; what the clock times is profiled."""
    keep_freed_memory()  # as the process of a stage does
    before = 0.0
    match job.stage:
        case "sft":
            objective: nn.Module = LikelihoodObjective(policy(job))
            steps, total = supervised_steps(turns(job), loop(job), epochs=1.0, seed=job.seed)
        case "reward":
            objective = RewardObjective(scalar_model(job), center=0.0)
            steps, total = ranking_steps(rankings(job), loop(job), epochs=1.0, seed=job.seed)
        case "dpo":
            config, rows, model = PARAMS.dpo.model_copy(update={"beta": BETA}), rankings(job), policy(job)
            start = now()
            with precision(model.device):  # as align has it
                reference = reference_log_probs(model, rows, job.batch)
            before = (now() - start) * (job.steps - job.warmup) / job.steps  # the share of the steps that are timed
            objective = Dpo(model, reference, config)
            steps, total = ranking_steps(rows, loop(job), epochs=1.0, seed=job.seed)
        case _:
            return learn_online(job, profiler)
    history, seconds = timed(job, objective, steps, total, profiler)
    return report(job, history, seconds + before, tokens=learned_tokens(job))


def learn_online(job: Job, profiler: profile | None) -> Measurement:
    """GRPO, RLOO or PPO, on answers that are sampled or given."""
    algorithm, config = online_algorithm(job)
    prompts = [turn.prompt for turn in turns(job)]
    judged = partial(rewards, scalar_model(job, offset=1)) if job.stage == "ppo" else judge
    source = OnlineSource(
        algorithm,
        nullcontext(policy(job, ends=True)),
        replay(job) if job.recorded else partial(sample, batch_size=config.rollout.batch_size),
        Rewards({"overall": judged}, {"overall": 1.0}, "raw"),
        prompts,
        config,
        max_tokens=job.longest,
        eos=END,
        seed=job.seed,
    )
    history, seconds = timed(job, algorithm, source.steps, source.total_steps, profiler)
    timed_steps = history[job.warmup * job.epochs :]
    sampled = sum(row["length"] for row in timed_steps) / len(timed_steps)
    prompt = sum(map(len, prompts)) / len(prompts)
    return report(job, history, seconds, tokens=(prompt + sampled) * job.batch * (job.steps - job.warmup))


def online_algorithm(job: Job) -> tuple[OnlineAlgorithm, Any]:
    """The algorithm, and its section."""
    section: Any = getattr(PARAMS, job.stage)
    rollout = {"prompts": job.batch // job.answers, "answers": job.answers, "batch_size": job.batch}
    config = section.model_copy(
        update={
            "iterations": job.steps,
            "epochs": job.epochs,
            "rollout": section.rollout.model_copy(update=rollout),
            "missing_eos_penalty": 0.0,
            "max_kl": 1e9,
            "kl_coefficient": KL,
            "loop": loop(job),
        }
    )
    model = policy(job, ends=True)
    match job.stage:
        case "grpo":
            config = config.model_copy(update={"mean_over": "token", "normalize": True, "kl_estimator": "k3"})
            return Grpo(model, config, max_tokens=job.longest), config
        case "rloo":
            return Rloo(model, config), config
        case _:
            return Ppo(model, scalar_model(job), config), config


def judge(batch: SequenceBatch) -> torch.Tensor:
    """A score that costs nothing, (B,): `score_of` each answer."""
    return (batch.ids * batch.mask).sum(dim=1) % 11 / 5.0


def score_of(response: list[int]) -> float:
    """The same for one answer."""
    return sum(response) % 11 / 5.0


def replay(job: Job) -> Callable[..., list[Sample]]:
    """A sampler that draws nothing: the recorded answers to each prompt, G side by side, as likely as nobody knows."""
    answers = recorded_answers(job)

    def recorded(_: Any, prompts: Sequence[list[int]], **options: Any) -> list[Sample]:
        given = dict.fromkeys(map(tuple, prompts))
        return [Sample(ids, True, [math.nan] * len(ids)) for prompt in given for ids in answers[prompt]]

    return recorded


def timed(
    job: Job, objective: nn.Module, steps: Steps, total: int, profiler: profile | None
) -> tuple[list[dict[str, float]], float]:
    """The curves, and the seconds of the steps after the warm-up."""
    clock = Clock(job.warmup * job.epochs, job.steps * job.epochs, profiler)
    with tempfile.TemporaryDirectory() as directory:
        history = train(
            objective,
            steps,
            total_steps=total,
            config=loop(job),
            checkpoints=Checkpoints(Path(directory)),
            recorder=clock,
        )
    return history, clock.seconds


def report(job: Job, history: list[dict[str, float]], seconds: float, *, tokens: float) -> Measurement:
    """What is compared: with recorded answers or data, the loss and gradient of every step."""
    overlay = {name: [row[name] for row in history] for name in overlaid(job)}
    return Measurement(seconds, job.batch * (job.steps - job.warmup), tokens, overlay)


def overlaid(job: Job) -> tuple[str, ...]:
    """What is equal on both sides where the definitions agree (tests/parity).

    Sampled answers differ. The losses of RLOO differ by a term without gradient: -A log pi here, -A pi / pi_old there.
    """
    if job.stage in ONLINE and not job.recorded:
        return ()
    return ("grad_norm",) if job.stage == "rloo" else ("loss", "grad_norm")


def learned_tokens(job: Job) -> float:
    """Tokens of the rows of the timed steps, on average: a pair has its prompt twice."""
    rows = (
        [ranking.answers for ranking in rankings(job)] if job.stage in ("reward", "dpo") else [(t,) for t in turns(job)]
    )
    tokens = sum(turn.tokens for row in rows for turn in row)
    return tokens * (job.steps - job.warmup) / job.steps
