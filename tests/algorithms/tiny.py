"""A model small enough to train in a test, with its tokenizer, and turns for it."""

import random
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.batching.batches import RankedTurns
from rlhf.batching.encoding import Turn
from rlhf.config import load_config
from rlhf.config.training import LoopConfig, LoraConfig
from rlhf.models.loading import device
from rlhf.models.small import make_llama, train_tokenizer

PARAMS = load_config(Path(__file__).parents[2] / "params.yaml")
LORA = LoraConfig(rank=2, alpha=8, target_modules="all-linear")
WORDS = ["red", "green", "blue", "one", "two", "three", "north", "south"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(WORDS)], 300)


def tiny_policy(seed: int = 0) -> LlamaForCausalLM:
    config = PARAMS.base.model.model_copy(update={"hidden_size": 16, "layers": 2, "heads": 2})
    return make_llama(config, tiny_tokenizer(), 64, seed).eval().to(device())


def talkative_policy(seed: int = 0) -> LlamaForCausalLM:
    """A policy that says many things: small weights would make it repeat its last token."""
    policy, generator = tiny_policy(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.layers.parameters():
            weight.normal_(std=0.7, generator=generator)
    return policy


def loop(**changes: object) -> LoopConfig:
    """The loop of the DPO section, with a few steps a batch."""
    values = {"batch_size": 8, "micro_batch_size": 8, "checkpoint_every": 2} | changes
    return PARAMS.align.dpo.loop.model_copy(update=values)


def turns(count: int, seed: int = 0) -> list[Turn]:
    random_ = random.Random(seed)
    ids = lambda low, high: [random_.randrange(5, 260) for _ in range(random_.randint(low, high))]  # noqa: E731
    return [Turn(ids(2, 9), ids(1, 9)) for _ in range(count)]


def groups(count: int, seed: int = 0) -> list[RankedTurns]:
    random_ = random.Random(seed)
    made = []
    for prompt in turns(count, seed):
        answers = turns(random_.randint(2, 4), random_.randrange(10**6))
        ranks = tuple(random_.randint(1, 3) for _ in answers)
        made.append(RankedTurns(tuple(Turn(prompt.prompt, a.response) for a in answers), ranks))
    return made


class Line(nn.Module):
    """A loss whose gradient is what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, given: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        return (given * self.weights).sum(), {}


class Silent:
    """A recorder that keeps nothing."""

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def progress(self, done: int, total: int, label: str = "") -> None:
        pass
