"""Sections of the alignment algorithms."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config.section import AtOnce, Count, Epochs, NonNegative, Positive, Section, Share, StepRows
from rlhf.config.training import LoopConfig, LoraConfig


class RolloutConfig(Section):
    """How an online algorithm samples."""

    prompts: StepRows  # prompts an iteration
    answers: StepRows  # G, of each prompt
    temperature: Positive  # of sampling and of scoring, both
    batch_size: AtOnce  # sequences decoded at once


class OnlineConfig(Section):
    """What every algorithm has that learns from its own samples."""

    iterations: Count
    epochs: Count  # passes over each iteration's answers
    rollout: RolloutConfig
    missing_eos_penalty: NonNegative  # taken from the score of an answer that did not end
    max_kl: Positive  # nats a sequence; training goes back when an iteration's mean KL passes it
    kl_coefficient: NonNegative  # beta
    loop: LoopConfig

    @property
    def one_step(self) -> bool:
        """Whether an iteration is one step, so that what learns from its answers is the policy that sampled them."""
        return self.epochs == 1 and self.loop.batch_size == self.rollout.prompts * self.rollout.answers

    @model_validator(mode="after")
    def _fills_whole_steps(self) -> Self:
        answers = self.rollout.prompts * self.rollout.answers
        if answers % self.loop.batch_size:
            raise ValueError(
                f"loop.batch_size is {self.loop.batch_size}, and an iteration has {answers} answers (rollout.prompts * "
                "rollout.answers), which are no whole number of steps: each would not be learned from equally often"
            )
        return self


class OnPolicyConfig(OnlineConfig):
    """What has no probability ratio, and so learns from an iteration's answers in a single step."""

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        if not self.one_step:
            raise ValueError(
                "without a probability ratio an iteration is one step: epochs must be 1, and loop.batch_size must be "
                f"rollout.prompts * rollout.answers, {self.rollout.prompts * self.rollout.answers}"
            )
        return self


class GroupedConfig(OnlineConfig):
    """What compares the answers to a prompt with each other."""

    @model_validator(mode="after")
    def _several_answers(self) -> Self:
        if self.rollout.answers < 2:
            raise ValueError("rollout.answers must be 2 or more: the answers to a prompt are compared with each other")
        return self


class ReinforceConfig(OnPolicyConfig):
    """REINFORCE with a baseline (lecture 001)."""

    credit: Literal["to_go", "trajectory"]
    baseline: Literal["none", "batch", "sequence", "token"]  # the last two are learned
    discount: Share  # gamma


class RlooConfig(OnPolicyConfig, GroupedConfig):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024)."""


class ActorCriticConfig(OnPolicyConfig):
    """REINFORCE with a critic (lecture 000)."""

    discount: Share  # gamma
    gae_lambda: Share
    value_coefficient: NonNegative  # c1


class PpoConfig(OnlineConfig):
    """PPO with a per-token KL penalty from SFT (lectures 000, 001, 004; Schulman et al. 2017; Ouyang et al. 2022)."""

    kl_placement: Literal["reward", "k1", "k2", "k3"]  # in the reward of each token, or an estimator in the loss
    kl_target: Positive | None  # nats a sequence, which the coefficient then follows; null keeps it fixed
    kl_horizon: Count  # answers over which the coefficient follows
    critic: Literal["separate", "head"]  # a model of its own that starts from the reward model, or a linear head
    clip: Positive  # epsilon of the probability ratio
    value_clip: Positive
    value_coefficient: NonNegative  # c1
    entropy_coefficient: NonNegative  # c2
    discount: Share  # gamma
    gae_lambda: Share
    whiten_advantages: bool
    pretraining_coefficient: NonNegative  # gamma of PPO-ptx; 0 leaves the mix out

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.whiten_advantages and self.kl_placement != "reward":
            raise ValueError(
                "whiten_advantages rescales the advantages in each iteration, but not a KL term in the loss, which "
                "then weighs more and more beside them. Set whiten_advantages to false, or kl_placement to reward"
            )
        return self


class GrpoConfig(GroupedConfig):
    """Group relative policy optimization and its corrected forms (Shao et al. 2024; lecture 001)."""

    normalize: bool  # divide by the standard deviation of the group
    mean_over: Literal["answer", "token", "constant"]
    kl_estimator: Literal["k1", "k2", "k3"]
    clip: Positive  # epsilon below 1
    clip_high: Positive  # epsilon above 1


class DpoConfig(Section):
    """Direct preference optimization (Rafailov et al. 2023; lectures 000, 002, 004)."""

    beta: Positive
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)]
    length_normalized: bool  # log-probabilities a token in place of an answer
    sft_coefficient: NonNegative  # of the likelihood of the best answer
    epochs: Epochs
    loop: LoopConfig


class GdpoBeliefConfig(DpoConfig):
    """Group distributional preference optimization (Yao et al. 2025; lecture 000)."""

    calibration_coefficient: NonNegative  # of KL(p* || pi(b | x))
    renormalized: bool  # pi(b | x) among the beliefs alone; false also draws probability to them
    smoothing: NonNegative  # votes added to every belief before shares are taken


class IpoConfig(Section):
    """Identity preference optimization (Azar et al. 2024)."""

    beta: Positive  # their tau
    length_normalized: bool
    epochs: Epochs
    loop: LoopConfig


class GrDpoConfig(Section):
    """Group robust direct preference optimization (Ramesh et al. 2024; lecture 000)."""

    beta: Positive
    rate: NonNegative  # eta, of the weights of the groups
    epochs: Epochs
    loop: LoopConfig


class KtoConfig(Section):
    """Kahneman-Tversky optimization of single judgements (Ethayarajh et al. 2024)."""

    beta: Positive
    up_weight: Positive  # lambda_D
    down_weight: Positive  # lambda_U
    epochs: Epochs
    loop: LoopConfig


Algorithm = Literal["reinforce", "rloo", "actor_critic", "ppo", "grpo", "dpo", "ipo", "gr_dpo", "kto", "gdpo_belief"]


class AlignConfig(Section):
    """The algorithms to run side by side, and the settings of each."""

    algorithms: list[Algorithm] = Field(min_length=1)
    seed: int = Field(ge=0, lt=2**20)  # added to the seed of the run
    snapshots: int = Field(ge=0)  # policies kept on the way, after equal shares of training
    noise_steps: int = Field(ge=0)  # gradients taken before training to measure their noise, which takes two
    lora: LoraConfig | None  # of every algorithm, and of a separate critic; null: all weights learn
    reinforce: ReinforceConfig
    rloo: RlooConfig
    actor_critic: ActorCriticConfig
    ppo: PpoConfig
    grpo: GrpoConfig
    dpo: DpoConfig
    ipo: IpoConfig
    gr_dpo: GrDpoConfig
    kto: KtoConfig
    gdpo_belief: GdpoBeliefConfig

    @field_validator("algorithms", mode="before")
    @classmethod
    def _names(cls, names: object) -> object:
        """Refuse a name that means two methods, and one that stands twice."""
        if isinstance(names, list):
            if "gdpo" in names:
                raise ValueError(
                    "`gdpo` is the name of two methods: group distributional preference optimization (Yao et al. 2025, "
                    "lecture 000), which is `gdpo_belief` here, and group reward-decoupled normalization policy "
                    "optimization (arXiv:2601.05242)"
                )
            twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
            if twice:
                raise ValueError(f"{', '.join(twice)} is named more than once")
        return names
