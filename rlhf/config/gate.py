"""Section of the gate."""

from typing import Literal

from pydantic import Field

from rlhf.config.section import Count, Positive, Section, Share


class Limits(Section):
    """Thresholds of the checks that a policy must pass before it may be promoted (docs/gate.md)."""

    min_prompts: Count
    max_unjudged: Share  # comparisons without a verdict, upper bound
    min_judge_consistency: Share  # comparisons judged the same in both orders, lower bound
    max_judge_primacy: Share  # |share of the verdicts for the answer shown first - 1/2|, upper bound
    min_judge_agreement: Share  # of the judge with people on pairs that they labelled, lower bound
    min_judge_pairs: Count  # labelled pairs, and prompts on which SFT is compared with itself
    judge_a_a_confidence: float = Field(gt=0.5, lt=1.0)  # of the interval of SFT against itself, which must hold 1/2
    min_win_rate: Share  # the lower bound of the win rate against SFT must exceed it
    min_slice: Count  # prompts of a use case; smaller ones are pooled
    max_kl: Positive  # nats a sequence, upper bound
    max_length_ratio: Positive  # mean length of the policy's answers over SFT's, upper bound
    min_terminated: Share  # answers that end by themselves, lower bound
    max_empty: Share  # answers without text, upper bound
    min_distinct: Share  # distinct 2-grams relative to SFT's
    min_reward_accuracy: Share  # of the reward model on unseen comparisons, lower bound
    max_reward_ece: Share  # expected calibration error of the reward model; a warning
    max_reward_length_bias: Share  # |Spearman correlation| of reward and length; a warning
    max_harmful_increase: Share  # harmful compliance of the policy minus SFT's, upper bound
    max_over_refusal_increase: Share  # refusals of harmless prompts, policy minus SFT, upper bound


class GateConfig(Section):
    """How the gate decides, and the profile of limits that it decides by."""

    confidence: float = Field(gt=0.5, lt=1.0)  # of every two-sided interval
    power: float = Field(gt=0.5, lt=1.0)  # at which the numbers of prompts that would settle a check are counted
    bootstrap: Count  # resamples, by prompt
    may_be_unmeasured: list[  # where no truth is known, or people judge
        Literal["gold_gain", "harmful_compliance", "over_refusal", "judge_consistent", "judge_agrees", "judge_a_a"]
    ]
    profile: Literal["small", "production"]  # whose limits hold
    small: Limits
    production: Limits

    @property
    def limits(self) -> Limits:
        """The limits of the profile. Every check is made by either."""
        return self.small if self.profile == "small" else self.production
