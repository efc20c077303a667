"""Section of the gate."""

from typing import Literal

from pydantic import Field, field_validator

from rlhf.config.section import Count, Positive, Section, Share

COLUMNS = ("use_case", "kind", "turns", "prompt_length")  # that evaluate gives each prompt, to slice by

Unmeasurable = Literal[
    "gold_gain",
    "gold_peak",
    "reward_short_answers",
    "reward_length_bias",
    "harmful_compliance",
    "harmful_increase",
    "over_refusal",
    "capability",
    "lm_loss",
    "judge_consistent",
    "judge_agrees",
    "judge_a_a",
]


class Limits(Section):
    """Thresholds of the checks that a policy must pass before it may be promoted (docs/gate.md)."""

    max_uses: Count  # looks that one test set is good for, before those of a run
    dirty: Share  # of a prompt's words, seen in training: from here on it counts as contaminated
    max_contaminated: Share  # of the prompts
    min_prompts: Count
    max_skipped: Share  # training steps of any model that were left out, upper bound
    max_unjudged: Share  # comparisons without a verdict, upper bound
    min_judge_consistency: Share  # comparisons judged the same in both orders, lower bound
    max_judge_primacy: Share  # |share of the verdicts for the answer shown first - 1/2|, upper bound
    min_judge_agreement: Share  # of the judge with people on pairs that they labelled, lower bound
    min_judge_pairs: Count  # labelled pairs, and prompts on which SFT is compared with itself
    judge_a_a_confidence: float = Field(gt=0.5, lt=1.0)  # of the interval of SFT against itself, which must hold 1/2
    min_win_rate: Share  # the lower bound of the win rate against SFT must exceed it
    max_ties: Share  # of the prompts, against either opponent
    max_length_shift: Share  # by which length control may move the win rate
    min_slice: Count  # prompts of a slice; smaller ones are pooled
    max_slice_loss: Share  # the lower bound of a slice's win rate must not be further below one half
    max_kl: Positive  # nats a sequence, upper bound
    max_proxy_gap: Positive  # gain by the reward model less that by the referee, standard deviations, upper bound
    max_peak_drop: Share  # of what the best policy on the way had gained over SFT, which this one may have lost
    min_nonlength_gain: Share  # of the reward model's gain, between answers of equal length, lower bound
    max_length_ratio: Positive  # mean length of the policy's answers over SFT's, upper bound
    min_terminated: Share  # answers that end by themselves, lower bound
    max_empty: Share  # answers without text, upper bound
    max_broken_increase: Share  # answers that are empty or cut, over SFT's and over the champion's, upper bound
    max_repetition_ratio: Positive  # repeated 4-grams relative to SFT's and the champion's ...
    max_repetition: Share  # ... and that much more, upper bound
    max_copying_increase: Share  # share of an answer copied from the prompt, over SFT's and the champion's, upper bound
    min_reward_accuracy: Share  # of the reward model on unseen comparisons, lower bound
    min_short_accuracy: Share  # of the same where the shorter answer was preferred, lower bound
    max_reward_ece: Share  # expected calibration error of the reward model
    reward_ece_blocks: bool  # false: a warning
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
    max_serving_cost: Positive  # latency and memory of the policy over the champion's; a warning in the small profile


class GateConfig(Section):
    """How the gate decides, and the profile of limits that it decides by."""

    confidence: float = Field(gt=0.5, lt=1.0)  # of every two-sided interval
    power: float = Field(gt=0.5, lt=1.0)  # at which the numbers of prompts that would settle a check are counted
    bootstrap: int = Field(ge=100)  # resamples, by prompt
    slices: dict[str, list[str]] = Field(min_length=1)  # columns to slice the prompts by: values that must be there
    accepted_alarms: list[str]  # of screen, kind/who/name, that somebody has looked into and lets stand
    may_be_unmeasured: list[Unmeasurable]  # where no truth is known, nobody judged so, or people judge
    test_set: str | None  # digest of the prompts that policies are to be judged on; null: not pinned
    profile: Literal["small", "production"]  # whose limits hold
    small: Limits
    production: Limits

    @field_validator("slices")
    @classmethod
    def _columns(cls, slices: dict[str, list[str]]) -> dict[str, list[str]]:
        if unknown := sorted(slices.keys() - set(COLUMNS)):
            raise ValueError(
                f"an evaluation has no column {unknown[0]} to slice its prompts by, but {', '.join(COLUMNS)}"
            )
        return slices

    @property
    def limits(self) -> Limits:
        """The limits of the profile. Every check is made by either."""
        return self.small if self.profile == "small" else self.production
