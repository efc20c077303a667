"""PPO's peer: TRL 1.12, the last release that has it, from a directory of its own.

Its definitions are ours (Huang et al. 2024) but in three places, which given answers avoid or which are set aside:

* the score stands one token after the end-of-turn token, where the critic has a value too; ours on that token: given
  answers are all as long as allowed and do not end, where both put it on the last token;
* advantages are whitened by the variance with Bessel's correction; ours without: here it is taken off;
* gradients are not clipped; then ours are not either.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, TrainerCallback

from benchmarks.jobs import Job, order, recorded_answers, turns
from benchmarks.measure import Clock, Measurement
from benchmarks.models import policy, scalar_model, tokenizer
from benchmarks.ours import KL, overlaid


class Watch(TrainerCallback):
    """What the trainer did."""

    def __init__(self, job: Job) -> None:
        self.clock = Clock(job.warmup, job.steps)
        self.tokens = 0.0
        self.seen: dict[str, list[Tensor]] = {"loss": [], "grad_norm": []}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An iteration is done."""
        self.clock.progress(state.global_step, state.max_steps)


def measure(job: Job, tuned: bool) -> Measurement:
    """Train, and report."""
    from trl.experimental.ppo import ppo_trainer

    watch = Watch(job)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make(job, directory, tuned, watch)
        sample = replay(job) if job.recorded else ppo_trainer.batch_generation
        spread = partial(ppo_trainer.masked_var, unbiased=not job.recorded)
        with (
            patch.object(ppo_trainer, "batch_generation", counted(sample, watch)),
            patch.object(ppo_trainer, "masked_var", spread),
        ):
            trainer.train()
    overlay = {name: [float(value) for value in watch.seen[name]] for name in overlaid(job)}
    share = (job.steps - job.warmup) / job.steps
    return Measurement(watch.clock.seconds, job.batch * job.steps * share, watch.tokens * share, overlay)


def make(job: Job, directory: str, tuned: bool, watch: Watch) -> Any:
    """The trainer. Tuned are micro-batches: it logs every iteration, and checkpointing is off whatever is asked."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    words = tokenizer(job)
    words.padding_side = "left"
    prompts = turns(job)
    rows = order(job)
    rows += rows[: job.batch]  # never taken: on a loader's last batch, accelerate steps after every micro-batch
    data = Dataset.from_list([{"input_ids": prompts[i].prompt} for i in rows])
    gpu = torch.cuda.is_available()
    parts = job.batch // (job.micro or job.batch) if tuned else 1
    quiet = {"gradient_checkpointing": False, "disable_tqdm": True, "dataloader_pin_memory": gpu} if tuned else {}
    config = PPOConfig(
        output_dir=directory,
        total_episodes=job.batch * job.steps,
        per_device_train_batch_size=job.batch // parts,
        gradient_accumulation_steps=parts,
        num_ppo_epochs=job.epochs,
        learning_rate=job.learning_rate,
        seed=job.seed,
        bf16=gpu,
        use_cpu=not gpu,
        response_length=job.longest,
        temperature=1.0,
        stop_token="eos",
        kl_coef=KL,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        **quiet,
    )
    trainer = PPOTrainer(
        config,
        words,
        model=policy(job, ends=True),
        ref_model=policy(job, ends=True),
        reward_model=scalar_model(job, offset=1),
        value_model=scalar_model(job),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[watch],
    )
    in_order = DataLoader(data, batch_size=job.batch, collate_fn=DataCollatorWithPadding(words))
    trainer.dataloader = trainer.accelerator.prepare(in_order)
    if tuned and gpu:
        torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for every new length
        for model in (trainer.model.policy, trainer.model.value_model, trainer.ref_model, trainer.reward_model):
            body = getattr(model, model.base_model_prefix)  # what it calls outside of accelerate's autocast
            body.forward = torch.autocast("cuda", torch.bfloat16)(body.forward)
    if job.recorded:
        trainer.accelerator.backward = watched(trainer, watch)
    return trainer


def watched(trainer: Any, watch: Watch) -> Callable[[Tensor], None]:
    """A backward pass that tells `watch` a step's loss and the norm of its gradient, which ours computes too."""
    backward, parts = trainer.accelerator.backward, trainer.args.gradient_accumulation_steps
    losses: list[Tensor] = []

    def told(loss: Tensor) -> None:
        backward(loss)
        losses.append(loss.detach())
        if len(losses) % parts == 0:
            watch.seen["loss"].append(torch.stack(losses[-parts:]).mean())
            gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            watch.seen["grad_norm"].append(torch.nn.utils.get_total_norm(gradients))

    return told


def counted(sample: Callable[..., tuple[Tensor, Tensor]], watch: Watch) -> Callable[..., tuple[Tensor, Tensor]]:
    """`sample`, whose tokens are counted."""

    def told(model: Any, queries: Tensor, size: int, pad: int, config: Any) -> tuple[Tensor, Tensor]:
        sequences, logits = sample(model, queries, size, pad, config)
        watch.tokens += int((sequences != pad).sum())
        return sequences, logits

    return told


def replay(job: Job) -> Callable[..., tuple[Tensor, Tensor]]:
    """In place of generation: the recorded answers, and the logits that it would have returned."""
    answers = recorded_answers(job)

    def recorded(model: Any, queries: Tensor, size: int, pad: int, config: Any) -> tuple[Tensor, Tensor]:
        from trl.experimental.ppo.ppo_trainer import forward

        given = [answers[tuple(row[row != pad].tolist())][0] for row in queries]
        sequences = torch.cat([queries, torch.tensor(given, device=queries.device)], dim=1)
        logits = forward(model, sequences, pad).logits
        return sequences, logits[:, queries.shape[1] - 1 : -1] / config.temperature

    return recorded
