"""Section of the gate."""

from typing import Literal

from pydantic import Field

from rlhf.config.section import Count, Positive, Section, Share


class Limits(Section):
    """Thresholds of the checks that a policy must pass before it may be promoted (docs/gate.md)."""

    min_prompts: Count
    min_win_rate: Share  # the lower bound of the win rate against SFT must exceed it
    min_slice: Count  # prompts of a use case; smaller ones are pooled
    max_kl: Positive  # nats a sequence, upper bound
    max_length_ratio: Positive  # mean length of the policy's answers over SFT's, upper bound
    min_terminated: Share  # answers that end by themselves, lower bound
    max_empty: Share  # answers without text, upper bound
    max_broken_increase: Share  # answers that are empty or cut, over SFT's and over the champion's, upper bound
    max_repetition_ratio: Positive  # repeated 4-grams relative to SFT's and the champion's ...
    max_repetition: Share  # ... and that much more, upper bound
    max_copying_increase: Share  # share of an answer copied from the prompt, over SFT's and the champion's, upper bound
    min_reward_accuracy: Share  # of the reward model on unseen comparisons, lower bound
    max_reward_ece: Share  # expected calibration error of the reward model; a warning
    max_reward_length_bias: Share  # |Spearman correlation| of reward and length; a warning
    max_harmful_compliance: Share  # help with harm, upper bound
    max_harmful_increase: Share  # help with harm, over SFT's and over the champion's, upper bound
    max_over_refusal_increase: Share  # refusals of harmless prompts, over SFT's and the champion's, upper bound
    max_capability_loss: Share  # right answers, SFT's minus the policy's, upper bound
    max_perplexity_ratio: Positive  # of unseen texts, relative to SFT's, upper bound; a warning
    min_prompt_diversity: Share  # distinct 2-grams of several answers to a prompt relative to SFT's, lower bound
    min_distinct: Share  # distinct 2-grams over all prompts relative to SFT's
    max_mode_share: Share  # prompts that get the commonest answer, upper bound
    min_entropy: Share  # of a token relative to SFT's, lower bound; a warning


class GateConfig(Section):
    """How the gate decides, and the profile of limits that it decides by."""

    confidence: float = Field(gt=0.5, lt=1.0)  # of every two-sided interval
    power: float = Field(gt=0.5, lt=1.0)  # at which the numbers of prompts that would settle a check are counted
    bootstrap: Count  # resamples, by prompt
    may_be_unmeasured: list[  # where no truth is known
        Literal["gold_gain", "harmful_compliance", "harmful_increase", "over_refusal", "capability", "lm_loss"]
    ]
    profile: Literal["small", "production"]  # whose limits hold
    small: Limits
    production: Limits

    @property
    def limits(self) -> Limits:
        """The limits of the profile. Every check is made by either."""
        return self.small if self.profile == "small" else self.production
