"""evaluate, of the people who judged and were polled: what they believe, and whose preferences a policy follows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.batches import SequenceBatch
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_judgements, read_rows
from rlhf.evaluation.beliefs import belief_distances, contested_margins
from rlhf.evaluation.preferences import answer_scores, untied_pairs
from rlhf.gate.statistics import bootstrap_mean, pairwise_accuracy, resampling
from rlhf.models.scoring import sequence_log_probs
from rlhf.pipeline.stage import Stage
from rlhf.rollouts.sampling import Sampler
from tasks.tables import read_groups, read_rankings

Row = dict[str, Any]


def believe(
    stage: Stage, draw: Sampler, tokenizer: PreTrainedTokenizerBase, models: Mapping[str, PreTrainedModel]
) -> Row | None:
    """How far both models are from what people believe, on the prompts of the test split that people were polled on."""
    judgements, bootstrap = stage.input("data/judgements"), resampling(stage.config.gate, stage.seed)
    polls = {prompt_hash(poll["prompt"]): poll for poll in read_rows(judgements, "beliefs", "test")}
    if not polls:
        return None
    judged = read_judgements(judgements, "rankings", "test", stage.config.reward.criteria)
    rankings = [(row, polls.get(prompt_hash(row["prompt"]))) for row in judged]
    limits = stage.config.tokens
    distances, stated = belief_distances(
        draw, models, tokenizer, list(polls.values()), stage.config.evaluate, limits, seed=stage.seed
    )
    minority, majority = contested_margins(models["policy"], models["sft"], tokenizer, rankings, limits)

    def mean(values: Sequence[float], clusters: Sequence[int] | None = None) -> dict[str, float] | None:
        owners = None if clusters is None else np.array(clusters)
        return asdict(bootstrap_mean(np.array(values), clusters=owners, **bootstrap)) if values else None

    return {
        "stated": stated,
        "distance": {name: mean(found) for name, found in distances.items()},
        "minority_margin": mean(*minority),
        "majority_margin": mean(*majority),
    }


def follow(
    stage: Stage, tokenizer: PreTrainedTokenizerBase, models: Mapping[str, PreTrainedModel]
) -> dict[str, dict[str, float]] | None:
    """Of each group of people, the share of the pairs in its rankings of the test split that the policy orders as the
    group does, by how much likelier than SFT it finds each answer. None where the judgements name fewer than two.
    """
    criteria = stage.config.reward.criteria
    rankings, rows, _ = read_rankings(stage, tokenizer, "test", criteria)
    groups = np.array(read_groups(stage, "test", criteria, rows))
    if len(set(groups)) < 2:
        return None
    policy, reference = models["policy"], models["sft"]

    def log_ratios(batch: SequenceBatch) -> Tensor:
        return sequence_log_probs(policy, batch) - sequence_log_probs(reference, batch)

    at_once = max(1, stage.config.evaluate.batch_size // max(map(len, rankings.ranks)))
    scores = answer_scores(log_ratios, rankings, at_once, policy.device)
    bootstrap, found = resampling(stage.config.gate, stage.seed), {}
    for name in sorted(set(groups)):
        mine = np.flatnonzero(groups == name)
        margins, prompts, _ = untied_pairs([rankings[int(i)] for i in mine], [scores[i] for i in mine])
        if len(margins):
            found[name] = asdict(pairwise_accuracy(margins, clusters=prompts, **bootstrap))
    return found
