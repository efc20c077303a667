"""Sections of the stages that load or train a model."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf.config.section import Count, NonNegative, Positive, Section, Share


class TokensConfig(Section):
    """Lengths in tokens. A row that is longer is left out and counted, never cut."""

    prompt: Count
    response: Count  # with its end-of-turn token


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to zero."""

    learning_rate: Positive
    warmup: Share  # of all steps
    weight_decay: NonNegative
    betas: tuple[float, float]
    eps: Positive
    max_grad_norm: Positive


class LoopConfig(Section):
    """The part of a stage that the training loop reads."""

    batch_size: Count  # sequences (SFT, pretraining), prompts (reward), pairs (DPO) an optimizer step
    micro_batch_size: Count  # of those, how many go through the model at once
    checkpoint_every: Count  # optimizer steps
    optimizer: OptimizerConfig


class Pretrain(Section):
    """A small Llama, pretrained here on the texts and demonstrations that were collected."""

    kind: Literal["pretrain"]
    vocab_size: int = Field(ge=300)
    hidden_size: Count
    layers: Count
    heads: Count
    epochs: Positive
    loop: LoopConfig


class LocalModel(Section):
    """A model directory that transformers saved."""

    kind: Literal["directory"]
    path: str


class HubModel(Section):
    """A model of the Hugging Face hub, pinned to a commit."""

    kind: Literal["hub"]
    id: str
    revision: str = Field(pattern="^[0-9a-f]{40}$")


class BaseConfig(Section):
    """Where the base model comes from."""

    model: Annotated[Pretrain | LocalModel | HubModel, Field(discriminator="kind")]


class SftConfig(Section):
    """Supervised fine-tuning on the demonstrations (lecture 001, step 1)."""

    epochs: Positive
    loop: LoopConfig


class SampleConfig(Section):
    """K answers a prompt, drawn from the SFT policy, for people to rank."""

    answers: int = Field(ge=2, le=9)  # K
    prompts: Count  # at most so many, in the order of their hash
    temperature: Positive
    batch_size: Count  # sequences decoded at once


class RewardConfig(Section):
    """The Bradley-Terry reward model on K-wise rankings (lecture 001, step 2)."""

    epochs: Positive
    center: NonNegative  # coefficient of the mean squared reward: keeps rewards near zero
    loop: LoopConfig


class RolloutConfig(Section):
    """How an online algorithm samples."""

    prompts: Count  # prompts an iteration
    temperature: Positive  # of sampling and of scoring, both
    batch_size: Count  # sequences decoded at once


class PpoConfig(Section):
    """PPO with a per-token KL penalty from SFT (lecture 001, step 3; Schulman et al. 2017; Ouyang et al. 2022)."""

    iterations: Count
    epochs: Count  # passes over each iteration's rollouts
    rollout: RolloutConfig
    kl_coefficient: NonNegative  # beta, on log pi - log pi_sft of each token
    clip: Positive  # epsilon of the probability ratio
    value_clip: Positive
    value_coefficient: NonNegative  # c1
    entropy_coefficient: NonNegative  # c2
    discount: Share  # gamma
    gae_lambda: Share
    whiten_advantages: bool
    missing_eos_penalty: NonNegative  # taken from the score of an answer that did not end
    pretraining_coefficient: NonNegative  # gamma of PPO-ptx; 0 leaves the mix out
    max_kl: Positive  # nats a sequence; training stops when an iteration's mean KL passes it
    loop: LoopConfig


class DpoConfig(Section):
    """Direct preference optimization (Rafailov et al. 2023; lecture 002)."""

    beta: Positive
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)]
    epochs: Positive
    loop: LoopConfig


class AlignConfig(Section):
    """The algorithms to run side by side, and the settings of each."""

    algorithms: list[Literal["ppo", "dpo"]] = Field(min_length=1)
    ppo: PpoConfig
    dpo: DpoConfig


class EvaluateConfig(Section):
    """How a policy is compared with SFT on prompts that no stage trained on."""

    prompts: Count  # at most so many test prompts
    temperature: Positive
    batch_size: Count
    judge: Literal["gold", "reward"]  # who decides which of two answers is better; gold exists in the world only
