"""sft: teach the base model to answer from demonstrations, learning the answer's tokens only (lecture 001, step 1)."""

from rlhf.algorithms.supervised import LikelihoodObjective, supervised_steps
from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_tokenizer, save_model
from rlhf.models.lora import adapt
from rlhf.models.scoring import turn_log_probs
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import in_words, of_training, write_curves
from rlhf.training.loop import train
from tasks.tables import read_demonstrations


def main(stage: Stage) -> None:
    """Write models/sft."""
    config, base = stage.config.sft, stage.input("models/base")
    tokenizer, model = load_tokenizer(base), adapt(load_policy(base), config.lora, stage.seed)
    turns = {split: read_demonstrations(stage, tokenizer, split) for split in ("train", "validation")}
    kept = {split: rows.where(rows.fit(stage.config.tokens)) for split, rows in turns.items()}
    too_long = sum(len(turns[split]) - len(kept[split]) for split in turns)
    if not kept["train"]:
        raise DataError(
            f"No demonstration to learn from: {len(turns['train'])} in the train split, all longer than tokens.prompt "
            f"({stage.config.tokens.prompt}) or tokens.response ({stage.config.tokens.response})"
        )
    steps, total = supervised_steps(kept["train"], config.loop, epochs=config.epochs, seed=stage.seed)
    objective = LikelihoodObjective(model)
    history = train(
        objective, steps, total_steps=total, config=config.loop, checkpoints=Checkpoints(stage.work), recorder=stage
    )
    save_model(
        model, tokenizer, stage.output("models/sft"), title="SFT policy", summary="Fine-tuned on demonstrations."
    )
    write_curves(stage.output("reports/sft/curves.csv"), history)

    values = of_training(history) | {"rows": len(kept["train"]), "too_long": too_long}
    if kept["validation"]:
        unseen = kept["validation"]
        nats = -turn_log_probs(model, unseen, config.loop.micro_batch_size).sum()
        values["validation_loss"] = float(nats) / int(unseen.responses.lengths.sum())
    stage.metrics(values)
    stage.summary(
        f"{len(kept['train']):,} demonstrations, {too_long} too long, loss {values['loss']:.3f}"
        + (f", on unseen prompts {values['validation_loss']:.3f}" if kept["validation"] else "")
        + in_words(history)
    )


if __name__ == "__main__":
    run_stage(main)
