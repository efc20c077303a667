"""The judge of an evaluation: who wins each prompt, and whether the judge is one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf import durable, manifest
from rlhf.batching.encoding import encode_turns
from rlhf.config.judges import Endpoint, People
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_rows
from rlhf.errors import DataError
from rlhf.gate.statistics import resampling
from rlhf.judges import people, validity
from rlhf.judges.door import Comparison, Judge, Judged, between, by_scores, in_both_orders
from rlhf.judges.endpoint import EndpointJudge
from rlhf.models.cached import arithmetic, cached
from rlhf.models.loading import load_reward_model
from rlhf.models.scoring import rewards, scored
from rlhf.pipeline.stage import Stage
from rlhf.pipeline.stage.work import REPLIES
from rlhf.rollouts.rewards import Rewards

Row = dict[str, Any]
Compared = Mapping[str, Sequence[Comparison]]  # by opponent
Known = Callable[[Judge], dict[str, Any]]  # what shows whether a judge is one
Said = tuple[dict[str, Judged], dict[str, Any]]  # by opponent; what shows whether the judge is one
FILE = "verdicts.jsonl"  # beside the rows: everything that a server or people said


def judge(
    stage: Stage,
    rows: list[Row],
    opponents: Sequence[str],
    again: Sequence[str],
    reward: Rewards,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Add `points_<opponent>` to the rows: 1 where the policy's answer is better, 1/2 where both are as good, 0 where
    it is worse, NaN without a verdict. Returns what shows whether the judge is one, None where that has no meaning.

    again: texts of SFT's second answers to the first prompts.
    """
    config, bootstrap = stage.config.evaluate.judge, resampling(stage.config.gate, stage.seed)
    compared = {name: between(rows, name) for name in opponents}
    labelled = labelled_pairs(stage, tokenizer)
    same = [
        Comparison(row["prompt_id"], row["prompt"], row["sft_response"], text)
        for row, text in zip(rows, again, strict=False)
    ]

    def known(one: Judge) -> dict[str, Any]:
        """What a judge says of pairs that people judged, and of SFT against itself."""
        return {"agreement": validity.agreement(one, labelled, bootstrap), "a_a": validity.a_a(one, same, bootstrap)}

    if isinstance(config, People):
        judged, found = _by_people(stage, config, compared, bootstrap)
    elif isinstance(config, Endpoint):
        judged, found = _by_endpoint(stage, config, compared, known)
    else:
        alone = scorer(stage, config.kind, reward, reference, tokenizer)
        judged, found = _by_scores(alone, config.kind, rows, opponents, known)
    for name, one in judged.items():
        for row, point in zip(rows, one.points.tolist(), strict=True):
            row[f"points_{name}"] = point
    owners = [np.array([row["prompt_id"] for row in rows])] * len(judged)
    return found | {
        "nulls": {name: validity.nulls(one) for name, one in judged.items()},
        "consistency": validity.consistency(list(judged.values()), owners, bootstrap),
        "primacy": validity.primacy(list(judged.values()), owners, bootstrap),
    }


def _by_people(stage: Stage, config: People, compared: Compared, bootstrap: dict[str, Any]) -> Said:
    """People, each asked in one order; of pairs that others labelled, and of SFT against itself, nobody asks them."""
    given = verdicts(stage, config)
    judged = {name: people.by_people(given, some) for name, some in compared.items()}
    tasks = {people.name_of(one) for one in chain(*compared.values())}
    counted = [one for one in given if one.task in tasks]
    write(stage, [asdict(one) for one in counted])
    agreement = validity.share(*people.agreements(counted), bootstrap)
    return judged, {"asked": "one order", "agreement": agreement, "a_a": None}


def _by_endpoint(stage: Stage, config: Endpoint, compared: Compared, known: Known) -> Said:
    """A language model behind a server, asked in both orders."""
    server = EndpointJudge(config, stage.workspace / REPLIES, partial(stage.progress, label="judge"))
    both = partial(in_both_orders, server)
    judged = {name: both(some) for name, some in compared.items()}
    found = {"asked": "both orders", **known(both)}
    write(stage, server.replies)
    return judged, found


def _by_scores(alone: Judge, kind: str, rows: Sequence[Row], opponents: Sequence[str], known: Known) -> Said:
    """Scores of answers one by one, which the rows hold already."""
    scores = {name: np.array([row[f"{name}_{kind}"] for row in rows]) for name in ("policy", *opponents)}
    judged = {name: by_scores(scores["policy"], scores[name]) for name in opponents}
    return judged, {"asked": "alone", **known(alone)}


def labelled_pairs(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Comparison]:
    """Pairs of answers of the test split that fit `tokens`, and of which people preferred the first."""
    limits, rankings = stage.config.tokens, read_rows(stage.input("data/judgements"), "rankings", "test")
    ours = [row for row in rankings if row["criterion"] in stage.config.reward.criteria]
    turns = encode_turns(tokenizer, [row | {"response": text} for row in ours for text in row["responses"]])
    fits = iter((turns.prompts.lengths <= limits.prompt) & (turns.responses.lengths <= limits.response))
    ranked = (row | {"ranks": [rank if next(fits) else None for rank in row["ranks"]]} for row in ours)
    return validity.pairs_of(list(ranked), stage.config.evaluate.judge_pairs, stage.seed, prompt_hash)


def verdicts(stage: Stage, config: People) -> list[people.Given]:
    """What people said so far: the bytes that params.yaml names, so that DVC sees a new verdict."""
    path = stage.workspace / config.verdicts
    if config.sha256 is None:
        return []
    if not path.is_file() or manifest.sha256(path) != config.sha256:
        raise DataError(
            f"{path} is not the file of verdicts that evaluate.judge.sha256 of params.yaml names. Take both from the "
            "same commit of git, or set that to null and import the files of people's verdicts: rlhf judge import FILE"
        )
    return people.read_verdicts(path)


def scorer(
    stage: Stage, kind: str, reward: Rewards, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Sequence[Comparison]], Judged]:
    """The judge that scores answers one by one, by their texts."""
    batch_size = stage.config.evaluate.batch_size
    names = [f"models/reward/{criterion}" for criterion in reward.functions]
    if kind == "referee":
        names = ["models/referee"]
        reward = Rewards({kind: partial(rewards, load_reward_model(stage.input(*names)))}, {kind: 1.0}, "raw")

    def scores(answers: list[tuple[Any, str]]) -> NDArray[np.float64]:
        if kind == "gold":
            from rlhf.world.gold import gold

            return np.array([gold(prompt, text).total for prompt, text in answers])
        path = stage.kept(
            scorer,
            rewards=[stage.inputs[name] for name in names],
            weights=[reward.weights[name] for name in reward.functions],
            tokenizer=stage.inputs["models/sft"],
            arithmetic=arithmetic(reference),
            answers=answers,
            batch_size=batch_size,
        )
        return cached(path, lambda: {"scores": compute(answers)})["scores"].double().numpy()

    def compute(answers: list[tuple[Any, str]]) -> Tensor:
        turns = encode_turns(tokenizer, [{"prompt": prompt, "response": text} for prompt, text in answers])
        found = scored(reward, [[turn] for turn in turns], batch_size, reference.device)
        return reward.total(torch.cat(found)) if found else torch.zeros(0)

    def judge(comparisons: Sequence[Comparison]) -> Judged:
        first, second = ([(one.prompt, getattr(one, side)) for one in comparisons] for side in ("first", "second"))
        return by_scores(scores(first), scores(second))

    return judge


def write(stage: Stage, said: Sequence[Row]) -> None:
    """Keep what was said, a line each."""
    lines = (json.dumps(one, ensure_ascii=False, sort_keys=True) + "\n" for one in said)
    durable.write_text(stage.output(f"reports/evaluate/{stage.item}/rows") / FILE, "".join(lines))
