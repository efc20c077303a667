"""Section of the simulated world."""

from typing import Annotated

from pydantic import Field

from rlhf.config.section import Count, NonNegative, Positive, Section, Share

Most = Annotated[float, Field(ge=0.0, le=0.35)]  # shares of requests for advice, good or bad, which are 77 % at most


class DemonstratorRates(Section):
    """How often a demonstration has each flaw, after lecture 001's behavioural gap."""

    wrong: Share
    off_topic: Share
    verbose: Share
    rude: Share
    complies_with_harm: Share  # of the prompts that ask for harm


class AnnotatorRates(Section):
    """How the simulated people judge."""

    count: Count
    temperature: Positive  # of Bradley-Terry: preference = sigmoid((score_i - score_j) / temperature)
    bias: NonNegative  # standard deviation of each annotator's own weight of length and politeness
    belief: NonNegative  # what an answer that states an annotator's own belief gains in his or her eyes
    error: Share  # judgements given at random
    tie_margin: NonNegative  # scores closer than this are called equal
    overlap: Share  # of the sampled prompts are judged by two annotators


class WorldConfig(Section):
    """The small world: its size and the rates of its people. The truth about it is known (docs/world.md)."""

    demonstrations: Count
    prompts: Count
    texts: Count
    comparisons: int = Field(ge=0)  # rows of collected feedback of each kind
    ratings: int = Field(ge=0)
    thumbs: int = Field(ge=0)
    rankings: int = Field(ge=0)
    # people of each group who are asked what they believe, on every opinion that a prompt asks for
    votes: int = Field(ge=0)
    harmful: Most  # of prompts
    borderline: Most  # of prompts
    multi_turn: Share  # of prompts
    few_shot: Annotated[float, Field(ge=0.0, le=0.5)]  # of single-turn prompts
    user: Annotated[float, Field(ge=0.0, le=0.5)]  # of single-turn prompts
    demonstrator: DemonstratorRates
    annotators: AnnotatorRates
