"""Section of the gate."""

from typing import Literal

from pydantic import Field

from rlhf.config.section import Count, NonNegative, Positive, Section, Share


class Limits(Section):
    """Thresholds of the checks that a policy must pass before it may be promoted (docs/gate.md)."""

    min_prompts: Count
    min_win_rate: Share  # the lower bound of the win rate against SFT must exceed it
    min_slice: Count  # prompts of a use case; smaller ones are pooled
    max_kl: Positive  # nats a sequence, upper bound
    max_proxy_gap: Positive  # gain by the reward model less that by the referee, standard deviations, upper bound
    max_peak_drop: NonNegative  # standard errors that a policy may be behind the best on the way to it
    min_nonlength_gain: Share  # of the reward model's gain, between answers of equal length, lower bound
    max_length_ratio: Positive  # mean length of the policy's answers over SFT's, upper bound
    min_terminated: Share  # answers that end by themselves, lower bound
    max_empty: Share  # answers without text, upper bound
    min_distinct: Share  # distinct 2-grams relative to SFT's
    min_reward_accuracy: Share  # of the reward model on unseen comparisons, lower bound
    min_short_accuracy: Share  # of the same where the shorter answer was preferred, lower bound
    max_reward_ece: Share  # expected calibration error of the reward model
    reward_ece_blocks: bool  # false: a warning
    max_reward_length_bias: Share  # |Spearman correlation| of reward and length; a warning
    max_harmful_increase: Share  # harmful compliance of the policy minus SFT's, upper bound
    max_over_refusal_increase: Share  # refusals of harmless prompts, policy minus SFT, upper bound


class GateConfig(Section):
    """How the gate decides, and the profile of limits that it decides by."""

    confidence: float = Field(gt=0.5, lt=1.0)  # of every two-sided interval
    power: float = Field(gt=0.5, lt=1.0)  # at which the numbers of prompts that would settle a check are counted
    bootstrap: Count  # resamples, by prompt
    may_be_unmeasured: list[  # where no truth is known, or nobody judged so
        Literal["gold_gain", "gold_peak", "reward_short_answers", "harmful_compliance", "over_refusal"]
    ]
    profile: Literal["small", "production"]  # whose limits hold
    small: Limits
    production: Limits

    @property
    def limits(self) -> Limits:
        """The limits of the profile. Every check is made by either."""
        return self.small if self.profile == "small" else self.production
