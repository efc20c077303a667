"""reward: the Bradley-Terry reward model on rankings of K answers by one criterion (lecture 001, step 2)."""

import csv
import json
from typing import Any

from scipy.stats import spearmanr
from transformers import PreTrainedModel

from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.reward import RewardObjective
from rlhf.batching.rankings import Rankings
from rlhf.errors import DataError
from rlhf.evaluation.preferences import reward_scores, untied_pairs
from rlhf.gate.statistics import calibration, pairwise_accuracy
from rlhf.models.loading import load_tokenizer, save_model, scalar_model_from
from rlhf.models.lora import adapt
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import tail_mean, write_curves
from rlhf.training.loop import train
from tasks.tables import read_rankings


def main(stage: Stage) -> None:
    """Write models/reward/<criterion>."""
    config, sft = stage.config.reward, stage.input("models/sft")
    tokenizer, criterion = load_tokenizer(sft), str(stage.item)
    (groups, too_long), (unseen, unseen_too_long) = (
        read_rankings(stage, tokenizer, split, [criterion]) for split in ("train", "test")
    )
    if not groups:
        raise DataError(
            f"No ranking by {criterion} to learn from: none in data/judgements fits ({too_long} answers too long)."
        )
    model = adapt(scalar_model_from(sft, stage.seed), config.lora, stage.seed)
    steps, total = ranking_steps(groups, config.loop, epochs=config.epochs, seed=stage.seed)
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
        stage.output(f"models/reward/{criterion}"),
        title="Reward model",
        summary=f"Bradley-Terry on rankings of answers by the criterion {criterion}.",
    )
    write_curves(stage.output(f"reports/reward/{criterion}/curves.csv"), history)
    values = {
        "loss": tail_mean(history, "loss"),
        "train_accuracy": tail_mean(history, "accuracy"),
        "margin": tail_mean(history, "margin"),
        "steps": len(history),
        "prompts": len(groups),
        "too_long": too_long + unseen_too_long,
    } | judge(stage, model, unseen)
    stage.metrics(values)
    accuracy = values["accuracy"]["value"]
    stage.summary(f"{len(groups):,} rankings, loss {values['loss']:.3f}, accuracy on unseen comparisons {accuracy:.1%}")


def judge(stage: Stage, model: PreTrainedModel, unseen: Rankings) -> dict[str, Any]:
    """Accuracy, calibration and length bias on comparisons of prompts that the model never saw."""
    scores = reward_scores(model, unseen, stage.config.reward.loop.micro_batch_size)
    margins, prompts, longer = untied_pairs(unseen, scores)
    if not len(margins):
        raise DataError(
            f"No comparison by {stage.item} in the test split to measure the reward model on. Collect more prompts."
        )
    accuracy = pairwise_accuracy(
        margins,
        confidence=stage.config.gate.confidence,
        resamples=stage.config.gate.bootstrap,
        seed=stage.seed,
        clusters=prompts,
    )
    bins, ece, brier = calibration(margins)
    with stage.output(f"reports/reward/{stage.item}/calibration.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["confidence", "accuracy", "count"])
        writer.writerows([f"{b.confidence:.6g}", f"{b.accuracy:.6g}", b.count] for b in bins)
    return {
        "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "pairs": len(margins)},
        "bayes_accuracy": bayes_accuracy(stage),
        "ece": ece,
        "brier": brier,
        "length_spearman": None if len(set(longer)) < 2 else float(spearmanr(margins, longer).statistic),
    }


def bayes_accuracy(stage: Stage) -> float | None:
    """The best accuracy that is possible on these comparisons, where the world knows it."""
    return json.loads(stage.input("reports/label.json").read_text())["criteria"][stage.item]["bayes_accuracy"]


if __name__ == "__main__":
    run_stage(main)
