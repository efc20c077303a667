"""TRL's side of a job, as shipped and tuned."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from benchmarks.jobs import ONLINE, Job, order, rankings, recorded_answers, turns
from benchmarks.measure import Clock, Measurement, now
from benchmarks.models import policy, scalar_model, tokenizer, words
from benchmarks.ours import BETA, KL, learned_tokens, overlaid, score_of

TRAINERS: dict[str, tuple[Any, Any]] = {
    "sft": (SFTConfig, SFTTrainer),
    "reward": (RewardConfig, RewardTrainer),
    "dpo": (DPOConfig, DPOTrainer),
    "grpo": (GRPOConfig, GRPOTrainer),
    "rloo": (RLOOConfig, RLOOTrainer),
}


def measure(job: Job, tuned: bool) -> Measurement:
    """Train, and report."""
    watch = Watch(job)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make(job, Path(directory), tuned, watch)
        trainer.add_callback(watch)
        trainer.train()
    seconds = watch.clock.seconds + watch.reference_seconds * (job.steps - job.warmup) / job.steps
    sampled = watch.sampled_tokens * (job.steps - job.warmup) / job.steps
    tokens = sampled if job.stage in ONLINE else learned_tokens(job)
    seen = {"loss": [float(loss) for loss in watch.losses], "grad_norm": [float(norm) for norm in watch.norms]}
    overlay = {name: seen[name] for name in overlaid(job)}
    return Measurement(seconds, job.batch * (job.steps - job.warmup), tokens, overlay)


class Watch(TrainerCallback):
    """What a trainer did, without a host synchronisation inside its steps."""

    def __init__(self, job: Job) -> None:
        self.clock = Clock(job.warmup, job.steps)
        self.losses: list[torch.Tensor | float] = [0.0]
        self.norms: list[torch.Tensor] = []
        self.reference_seconds = 0.0  # before the first step
        self.sampled_tokens = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step is done."""
        self.clock.progress(state.global_step, state.max_steps)
        if state.global_step < state.max_steps:
            self.losses.append(0.0)


def watched(trainer: Any, watch: Watch, answers: Callable[[list[list[int]]], list[list[int]]] | None) -> type:
    """A trainer that tells `watch`; with `answers`, one that is given the answers to its prompts."""

    class Watched(trainer):
        def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
            loss = super().training_step(*args, **options)
            watch.losses[-1] = watch.losses[-1] + loss.detach()
            return loss

        def _clip_grad_norm(self, model: Any) -> torch.Tensor:
            watch.norms.append(super()._clip_grad_norm(model))
            return watch.norms[-1]

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            start = now()
            values = super().compute_ref_log_probs(model, inputs)
            if self.precompute_ref_logps:  # before the first step; else within the steps, on the clock
                watch.reference_seconds += now() - start
            return values

        def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **options: Any) -> Any:
            if answers is None:
                given = super()._generate_single_turn(prompt_ids, *args, **options)
            else:
                given = (answers(prompt_ids), None) if trainer is GRPOTrainer else answers(prompt_ids)
            made = given[0] if trainer is GRPOTrainer else given
            watch.sampled_tokens += sum(map(len, [*prompt_ids, *made]))
            return given

    return Watched


def make(job: Job, directory: Path, tuned: bool, watch: Watch) -> Any:
    """The trainer of a stage."""
    torch.backends.cuda.enable_cudnn_sdp(not tuned)  # it makes a plan for every new length
    config, trainer = TRAINERS[job.stage]
    model = scalar_model(job) if job.stage == "reward" else policy(job, ends=job.stage in ONLINE)
    init: dict[str, Any] = {}
    if job.stage in ONLINE:
        model.save_pretrained(directory / "reference")  # TRL loads its reference by the name of the policy
        model.config._name_or_path = str(directory / "reference")
        init["reward_funcs"] = score
    elif job.stage == "dpo" and not tuned:
        init["ref_model"] = policy(job)
    options = common(job, directory) | of_stage(job) | (tuned_for(job) if tuned else {})
    return watched(trainer, watch, given(job) if job.recorded else None)(
        model=model,
        args=config(**options),
        train_dataset=Dataset.from_list(rows(job, sort=tuned)),
        processing_class=tokenizer(job),
        **init,
    )


def common(job: Job, directory: Path) -> dict[str, Any]:
    """What defines the computation, and what a CPU forbids: bf16. The rest is TRL's own default."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(directory),
        "max_steps": job.steps,
        "per_device_train_batch_size": job.batch,
        "learning_rate": job.learning_rate,
        "seed": job.seed,
        "bf16": gpu,
        "use_cpu": not gpu,
        "save_strategy": "no",
        "report_to": "none",
    }


def of_stage(job: Job) -> dict[str, Any]:
    """The same algorithm as ours, on the rows in our order."""
    online: dict[str, Any] = {
        "num_generations": job.answers,
        "max_completion_length": job.longest,
        "beta": KL,
        "shuffle_dataset": False,
    }
    given: dict[str, Any] = {"train_sampling_strategy": "sequential", "max_length": None}
    match job.stage:
        case "sft" | "reward":
            return given
        case "dpo":
            return given | {"beta": BETA}
        case "grpo":
            return online | {"loss_type": "dapo", "epsilon": 0.2, "use_bias_correction_kl": True}
        case _:
            return online


def tuned_for(job: Job) -> dict[str, Any]:
    """Nothing beside the steps; micro-batches, of like length where the stage lets us order rows; DPO's reference pass
    once, before."""
    parts = job.batch // (job.micro or job.batch)
    options: dict[str, Any] = {
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "per_device_train_batch_size": job.batch // parts,
        "gradient_accumulation_steps": parts,
    }
    return options | ({"precompute_ref_log_probs": True} if job.stage == "dpo" else {})


def rows(job: Job, *, sort: bool) -> list[dict[str, Any]]:
    """The data in the order of our steps; with `sort`, each step's rows by length."""
    taken = order(job)
    if job.stage in ONLINE:
        prompts = turns(job)
        return [{"prompt": words(list(prompts[i].prompt))} for i in taken]
    groups = [ranking.answers for ranking in rankings(job)] if job.stage != "sft" else [(turn,) for turn in turns(job)]
    if sort:
        longest = [max(turn.tokens for turn in group) for group in groups]
        taken = [
            i
            for start in range(0, len(taken), job.batch)
            for i in sorted(taken[start:][: job.batch], key=longest.__getitem__)
        ]
    return [_row(job.stage, groups[i]) for i in taken]


def _row(stage: str, group: tuple[Any, ...]) -> dict[str, Any]:
    first, last = group[0], group[-1]
    match stage:
        case "sft":
            ids = first.prompt + first.response
            return {"input_ids": ids, "labels": [-100] * len(first.prompt) + first.response}
        case "reward":
            return {"chosen_ids": first.prompt + first.response, "rejected_ids": last.prompt + last.response}
        case _:
            answers = {"chosen": words(first.response), "rejected": words(last.response)}
            return {"prompt": words(first.prompt)} | answers


def score(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward function as TRL calls it."""
    return [score_of(ids) for ids in completion_ids]


def given(job: Job) -> Callable[[list[list[int]]], list[list[int]]]:
    """The recorded answers to prompts, each of which stands G times side by side."""
    answers = recorded_answers(job)
    return lambda prompts: [answers[tuple(ids)][i % job.answers] for i, ids in enumerate(prompts)]
