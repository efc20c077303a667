"""Worlds whose every answer can be listed: a few prompts of one token, n answers of one, and a table as policy."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from rlhf.algorithms.online import OnlineAlgorithm
from rlhf.algorithms.source import OnlineSource
from rlhf.batching.batches import SequenceBatch
from rlhf.config.algorithms import OnlineConfig
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import sample
from tests.algorithms.tiny import PARAMS

PROMPTS = 5  # each a world of its own


class Table(nn.Module):
    """A policy whose logits, or a critic whose values, are a row of a table for each prompt.

    It has what scoring and sampling ask of a model: hidden states that name the prompt, and a linear head.
    """

    def __init__(self, rows: Tensor) -> None:
        """rows: (PROMPTS, n) logits, or (PROMPTS, 1) values."""
        super().__init__()
        self.config = LlamaConfig(hidden_size=PROMPTS, num_hidden_layers=1, num_attention_heads=1, head_dim=2)
        self.device = rows.device
        self.score = nn.Linear(PROMPTS, rows.shape[1], bias=False)
        with torch.no_grad():
            self.score.weight.copy_(rows.T)

    def base_model(self, *, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        prompts = input_ids[:, :1].expand_as(input_ids)
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(prompts, PROMPTS).float())

    def get_output_embeddings(self) -> nn.Linear:
        return self.score

    def log_probs(self) -> Tensor:
        """(PROMPTS, n)"""
        return self.score.weight.T.log_softmax(1)


class World:
    """Rewards and a reference for every prompt, and what the best policy is."""

    def __init__(self, n: int, beta: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.n, self.beta = n, beta
        self.reward = torch.rand(PROMPTS, n, generator=generator) * 2 - 1
        self.reference = torch.randn(PROMPTS, n, generator=generator).log_softmax(1)

    def optimum(self, share: float = 1.0) -> Tensor:
        """pi_ref exp(share r / beta) / Z, (PROMPTS, n)."""
        return (self.reference + share * self.reward / self.beta).softmax(1)

    def objective(self, log_probs: Tensor, share: float = 1.0) -> Tensor:
        """Mean over prompts of E[share r] - beta KL(pi || pi_ref), by enumeration."""
        gain = share * self.reward - self.beta * (log_probs - self.reference)
        return (log_probs.exp() * gain).sum(1).mean()

    def source(self, algorithm: OnlineAlgorithm, config: OnlineConfig, seed: int = 0) -> OnlineSource:
        """Rollouts of `algorithm` that this world judges."""

        def judge(batch: SequenceBatch) -> Tensor:
            return self.reward[batch.ids[:, 0], batch.ids[:, 1]]

        prompts = [[prompt] for prompt in range(PROMPTS)] * (config.rollout.prompts // PROMPTS)
        return OnlineSource(
            algorithm,
            nullcontext(Table(self.reference)),
            partial(sample, batch_size=config.rollout.batch_size),
            Rewards({"overall": judge}, {"overall": 1.0}, "raw"),
            prompts,
            config,
            max_tokens=1,
            eos=-1,
            seed=seed,
        )


def settings(name: str, beta: float, *, prompts: int, answers: int, steps: int = 1, **changes: Any) -> Any:
    """The section of an algorithm, with `steps` optimizer steps an iteration and one pass over its answers."""
    section = getattr(PARAMS.align, name)
    batch = prompts * answers // steps
    shape = {"prompts": prompts, "answers": answers, "batch_size": prompts * answers}
    return section.model_copy(
        update={
            "iterations": 10**6,
            "epochs": 1,
            "kl_coefficient": beta,
            "missing_eos_penalty": 0.0,
            "max_kl": 1e6,
            "rollout": section.rollout.model_copy(update=shape),
            "loop": section.loop.model_copy(update={"batch_size": batch, "micro_batch_size": batch}),
        }
        | changes
    )


def gradients(algorithm: OnlineAlgorithm, source: OnlineSource) -> Iterator[Tensor]:
    """The gradient of the table of every step, endlessly; the caller may move the table in between."""
    for step in source.steps(0):
        algorithm.zero_grad()
        for batch in step.micro_batches:
            (algorithm(batch)[0] / step.count).backward()
        yield algorithm.policy.score.weight.grad.T.clone()
