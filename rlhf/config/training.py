"""Sections of the stages that load or train a model."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rlhf.config.data import Commit
from rlhf.config.judges import JudgeConfig
from rlhf.config.section import (
    CRITERION,
    HUB_ID,
    AtOnce,
    Count,
    Epochs,
    NonNegative,
    Positive,
    Section,
    Share,
    StepRows,
)

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class TokensConfig(Section):
    """Lengths in tokens. A row that is longer is left out and counted, never cut."""

    prompt: Count
    response: Count  # with its end-of-turn token


class DecodingConfig(Section):
    """What samples answers."""

    engine: Literal["own", "vllm"]
    gpu_memory: Annotated[float, Field(gt=0.0, lt=1.0)]  # share of the GPU that vLLM keeps while the stage runs


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to zero."""

    learning_rate: Positive
    warmup: Share  # of all steps
    weight_decay: NonNegative
    betas: tuple[Decay, Decay] = Field(strict=False)  # of the means of the gradient, and of its square; a list in YAML
    eps: Positive
    max_grad_norm: Positive


class LoopConfig(Section):
    """The part of a stage that the training loop reads."""

    # an optimizer step's sequences (SFT), blocks (base), prompts with all pairs (reward, DPO), answers (KTO, online)
    batch_size: StepRows
    micro_batch_size: AtOnce  # of those, how many go through the model at once
    checkpoint_every: Count  # optimizer steps
    max_setbacks: int = Field(ge=0)  # from batches that do harm: rlhf/training/setbacks.py
    gradient_checkpointing: bool  # the activations of a layer are computed again in the backward pass instead of kept
    optimizer: OptimizerConfig


class LoraConfig(Section):
    """What learns in place of the weights (Hu et al. 2022): B A, scaled by alpha / rank, beside linear layers."""

    rank: Count  # r
    alpha: Count
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)]  # names of layers: q_proj


class Pretrain(Section):
    """A small Llama, pretrained here on the texts and demonstrations that were collected."""

    kind: Literal["pretrain"]
    vocab_size: int = Field(ge=300, le=1_000_000)
    hidden_size: int = Field(ge=2, le=100_000)
    layers: int = Field(ge=1, le=1_000)
    heads: Count
    epochs: Epochs
    loop: LoopConfig

    @model_validator(mode="after")
    def _heads_fit(self) -> "Pretrain":
        """Refuse heads whose dimensions cannot be turned in pairs, as rotary positions do."""
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, which {self.heads} heads do not share in even parts. "
                f"Take a multiple of {2 * self.heads}"
            )
        return self


class LocalModel(Section):
    """A model directory that transformers saved."""

    kind: Literal["directory"]
    path: str


class HubModel(Section):
    """A model of the Hugging Face hub, pinned to a commit."""

    kind: Literal["hub"]
    id: str = Field(pattern=f"^{HUB_ID}$")
    revision: Commit


class BaseConfig(Section):
    """Where the base model comes from."""

    model: Annotated[Pretrain | LocalModel | HubModel, Field(discriminator="kind")]


class SftConfig(Section):
    """Supervised fine-tuning on the demonstrations (lecture 001, step 1)."""

    epochs: Epochs
    lora: LoraConfig | None  # null: all weights learn
    loop: LoopConfig


class SampleConfig(Section):
    """K answers a prompt, drawn from the SFT policy, for people to rank."""

    answers: int = Field(ge=2, le=9)  # K
    prompts: Count  # at most so many, drawn by lot
    temperature: Positive
    batch_size: AtOnce  # sequences decoded at once


class RewardConfig(Section):
    """The Bradley-Terry reward models on K-wise rankings (lecture 001, step 2), one for each criterion."""

    criteria: dict[str, Positive] = Field(min_length=1)  # by which judgements were made, each with its weight
    combine: Literal["raw", "standardized"]  # as what rewards are summed
    epochs: Epochs
    center: NonNegative  # coefficient of the squared mean reward of a prompt's answers
    lora: LoraConfig | None  # null: all weights learn
    loop: LoopConfig

    @field_validator("criteria")
    @classmethod
    def _names(cls, criteria: dict[str, float]) -> dict[str, float]:
        """Refuse a name that cannot be part of a stage's name and of a path."""
        for name in criteria:
            if not re.fullmatch(CRITERION, name):
                raise ValueError(f"`{name}` is no name: lower-case letters, digits and _, a letter first")
        return criteria


class ServingConfig(Section):
    """How a policy is tried where it is served (rlhf/serving.py)."""

    prompts: int = Field(ge=2)  # the first of those that are evaluated
    rounds: Count  # of all of them; the time of a prompt is the median of its rounds
    timeout: Positive  # seconds for all of it


class EvaluateConfig(Section):
    """How a policy is compared with SFT on prompts that no stage trained on."""

    prompts: Count  # at most so many test prompts
    temperature: Positive
    batch_size: AtOnce
    belief_answers: Count  # sampled to each test prompt that people were polled on
    safety_prompts: Count  # at most, of requests for harm, and of harmless ones that look like it; the world's alone
    diversity_prompts: Count  # at most, of the test prompts, that are asked again and again
    diversity_answers: int = Field(ge=2)  # sampled to each of them
    documents: Count  # at most, of the test split's texts, whose probability is measured
    truth: Literal["world", "none"]  # who knows what is right and what is harm
    judge: JudgeConfig  # who decides which of two answers is better
    # at most so many to show that the judge is one: labelled pairs, and prompts of SFT against itself
    judge_pairs: Count
    serving: ServingConfig

    @model_validator(mode="after")
    def _gold_is_known(self) -> "EvaluateConfig":
        if self.judge.kind == "gold" and self.truth == "none":
            raise ValueError("`judge: gold` needs the ground truth, but `truth` is `none`. Choose another judge")
        return self
