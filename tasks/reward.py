"""reward: the Bradley-Terry reward model on rankings of K answers by one criterion (lecture 001, step 2)."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from transformers import PreTrainedModel

from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.reward import RewardObjective
from rlhf.batching.rankings import Rankings
from rlhf.errors import DataError
from rlhf.evaluation.preferences import untied_pairs
from rlhf.gate.statistics import calibration, pairwise_accuracy, resampling
from rlhf.models.loading import load_tokenizer, save_model, scalar_model_from
from rlhf.models.lora import adapt
from rlhf.models.scoring import rewards, scored
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import in_words, of_training, tail_mean, write_curves
from rlhf.training.loop import train
from tasks.tables import read_rankings


def main(stage: Stage) -> None:
    """Write models/reward/<criterion>."""
    criterion = str(stage.item)
    learn(
        stage,
        f"reward/{criterion}",
        "train",
        [criterion],
        seed=stage.seed,
        title="Reward model",
    )


def learn(stage: Stage, name: str, split: str, criteria: Sequence[str], *, seed: int, title: str) -> None:
    """Write models/<name> and reports/<name>: a reward model of the rankings of a split by any of the criteria."""
    config, sft = stage.config.reward, stage.input("models/sft")
    tokenizer, judged_by = load_tokenizer(sft), " or ".join(criteria)
    (groups, _, too_long), (unseen, _, unseen_too_long) = (
        read_rankings(stage, tokenizer, part, criteria) for part in (split, "test")
    )
    if not groups:
        raise DataError(
            f"No ranking by {judged_by} to learn from: the split `{split}` of data/judgements has none that fits "
            f"({too_long} answers too long). label.referee deals the train prompts between `train` and `referee`"
        )
    model = adapt(scalar_model_from(sft, seed), config.lora, seed)
    steps, total = ranking_steps(groups, config.loop, epochs=config.epochs, seed=seed)
    history = train(
        RewardObjective(model, center=config.center),
        steps,
        total_steps=total,
        config=config.loop,
        checkpoints=Checkpoints(stage.work),
        recorder=stage,
    )
    save_model(
        model,
        tokenizer,
        stage.output(f"models/{name}"),
        title=title,
        summary=f"Bradley-Terry on rankings of answers by the criterion {judged_by}.",
    )
    write_curves(stage.output(f"reports/{name}/curves.csv"), history)
    values = (
        of_training(history)
        | {
            "train_accuracy": tail_mean(history, "accuracy"),
            "margin": tail_mean(history, "margin"),
            "prompts": len(groups),
            "too_long": too_long + unseen_too_long,
            "bayes_accuracy": bayes_accuracy(stage, criteria),
        }
        | judge(stage, name, model, unseen)
    )
    stage.metrics(values)
    accuracy = values["accuracy"]["value"]
    stage.summary(
        f"{len(groups):,} rankings, loss {values['loss']:.3f}, accuracy on unseen comparisons {accuracy:.1%}"
        + in_words(history)
    )


def judge(stage: Stage, name: str, model: PreTrainedModel, unseen: Rankings) -> dict[str, Any]:
    """Accuracy, calibration and length bias on comparisons of prompts that the model never saw."""
    size = stage.config.reward.loop.micro_batch_size
    scores = scored(partial(rewards, model), [group.answers for group in unseen], size, model.device)
    margins, prompts, longer = untied_pairs(unseen, scores)
    if not len(margins):
        raise DataError(
            f"No comparison in the test split to measure models/{name} on. Collect more prompts, or raise "
            "validate.splits.test"
        )

    def accuracy(pairs: NDArray[np.bool_]) -> dict[str, float] | None:
        if not pairs.any():
            return None
        bootstrap = resampling(stage.config.gate, stage.seed)
        found = pairwise_accuracy(margins[pairs], clusters=prompts[pairs], **bootstrap)
        return asdict(found) | {"pairs": int(pairs.sum())}

    bins, ece, brier = calibration(margins)
    with stage.output(f"reports/{name}/calibration.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["confidence", "accuracy", "count"])
        writer.writerows([f"{b.confidence:.6g}", f"{b.accuracy:.6g}", b.count] for b in bins)
    return {
        "accuracy": accuracy(np.ones(len(margins), dtype=bool)),
        "short_accuracy": accuracy(longer < 0),
        "ece": ece,
        "brier": brier,
        "length_spearman": length_spearman(margins, longer),
    }


def length_spearman(margins: NDArray[np.float64], longer: NDArray[np.int64]) -> float | None:
    """Rank correlation of how much better the model finds an answer with how many tokens longer it is, -1 to 1; None
    where the model or the lengths tell no two answers apart. Every pair counts both ways round: better first alone,
    a model that goes by length would hardly show in pairs whose longer answer is always the better one."""
    if not (margins.any() and longer.any()):
        return None
    return float(spearmanr(np.concatenate([margins, -margins]), np.concatenate([longer, -longer])).statistic)


def bayes_accuracy(stage: Stage, criteria: Sequence[str]) -> float | None:
    """The best accuracy that is possible on these comparisons, where the world knows it: by one criterion."""
    known = json.loads(stage.input("reports/label.json").read_text())["criteria"]
    return known[criteria[0]]["bayes_accuracy"] if len(criteria) == 1 else None


if __name__ == "__main__":
    run_stage(main)
