"""evaluate, of the people who judged and were polled: what they believe, and whose preferences a policy follows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.batches import SequenceBatch
from rlhf.batching.rankings import Rankings
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_judgements, read_rows
from rlhf.evaluation.beliefs import belief_distances, contested_margins
from rlhf.evaluation.preferences import untied_pairs
from rlhf.gate.statistics import bootstrap_mean, pairwise_accuracy, resampling
from rlhf.models.scoring import scored, sequence_log_probs
from rlhf.pipeline.stage import Stage
from rlhf.rollouts.sampling import Sampler
from tasks.tables import read_groups, read_rankings

Row = dict[str, Any]


def beside_people(
    stage: Stage, draw: Sampler, tokenizer: PreTrainedTokenizerBase, models: Mapping[str, PreTrainedModel]
) -> tuple[Row | None, Row | None]:
    """On the test split: how far both models are from what people believe, None where nobody was polled; and how far
    the policy follows each group of people, None where the judgements name fewer than two.

    A policy orders answers by h = log pi(y | x) / pi_sft(y | x), how much likelier than SFT it finds each.
    """
    judgements, criteria = stage.input("data/judgements"), stage.config.reward.criteria
    polls = {prompt_hash(poll["prompt"]): poll for poll in read_rows(judgements, "beliefs", "test")}
    rankings, rows, _ = read_rankings(stage, tokenizer, "test", criteria)
    groups = read_groups(stage, "test", criteria, rows)
    several = len(set(groups)) > 1
    if not (polls or several):
        return None, None
    policy, reference = models["policy"], models["sft"]

    def log_ratios(batch: SequenceBatch) -> Tensor:
        return sequence_log_probs(policy, batch) - sequence_log_probs(reference, batch)

    at_once = max(1, stage.config.evaluate.batch_size // max(map(len, rankings.ranks), default=1))
    ratios = scored(log_ratios, [ranking.answers for ranking in rankings], at_once, policy.device)
    judged = read_judgements(judgements, "rankings", "test", criteria)
    whole = [
        (judged[row], polls[asked], of_ranking.tolist())
        for row, of_ranking in zip(rows, ratios, strict=True)
        if (asked := prompt_hash(judged[row]["prompt"])) in polls and len(of_ranking) == len(judged[row]["responses"])
    ]
    held = believe(stage, draw, tokenizer, models, list(polls.values()), whole) if polls else None
    return held, follow(stage, rankings, groups, ratios) if several else None


def believe(
    stage: Stage,
    draw: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    models: Mapping[str, PreTrainedModel],
    polls: Sequence[Row],
    judged: Sequence[tuple[Row, Row, Sequence[float]]],
) -> Row:
    """How far both models are from what people believe, on the prompts that people were polled on.

    judged: rankings of which no answer is too long, each with its poll and h of its answers.
    """
    bootstrap = resampling(stage.config.gate, stage.seed)
    distances, stated = belief_distances(
        draw, models, tokenizer, polls, stage.config.evaluate, stage.config.tokens, seed=stage.seed
    )
    minority, majority = contested_margins(judged)

    def mean(values: Sequence[float], clusters: Sequence[str] | None = None) -> dict[str, float] | None:
        owners = None if clusters is None else np.array(clusters)
        return asdict(bootstrap_mean(np.array(values), clusters=owners, **bootstrap)) if values else None

    return {
        "stated": stated,
        "distance": {name: mean(found) for name, found in distances.items()},
        "minority_margin": mean(*minority),
        "majority_margin": mean(*majority),
    }


def follow(stage: Stage, rankings: Rankings, groups: Sequence[str], ratios: Sequence[Tensor]) -> Row:
    """Of each group of people, the share of the pairs in its rankings that the policy orders as the group does."""
    bootstrap, found = resampling(stage.config.gate, stage.seed), {}
    for name in sorted(set(groups)):
        mine = [place for place, group in enumerate(groups) if group == name]
        margins, prompts, _ = untied_pairs([rankings[place] for place in mine], [ratios[place] for place in mine])
        if len(margins):
            found[name] = asdict(pairwise_accuracy(margins, clusters=prompts, **bootstrap))
    return found
