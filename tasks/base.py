"""base: take a pretrained model at a pinned revision, or pretrain a small one on what was collected."""

from pathlib import Path
from typing import Any

import numpy as np

from rlhf.algorithms.supervised import LikelihoodObjective, pack, supervised_steps
from rlhf.batching.encoding import encode_conversations, encode_ended
from rlhf.config.training import HubModel, LocalModel, Pretrain
from rlhf.data.rows import read_rows
from rlhf.errors import ConfigError, DataError
from rlhf.models.loading import load_policy, load_tokenizer, require_fit, save_model
from rlhf.models.small import make_llama, train_tokenizer
from rlhf.models.template import freeze_date, try_template
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.trial import require_read_alike
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import in_words, of_training, write_curves
from rlhf.training.loop import train


def main(stage: Stage) -> None:
    """Write models/base."""
    source = stage.config.base.model
    if isinstance(source, Pretrain):
        pretrain(stage, source)
    else:
        take(stage, source)


def take(stage: Stage, source: LocalModel | HubModel) -> None:
    """A model that others trained, as safetensors."""
    if isinstance(source, LocalModel):
        path, revision = str(_watched(stage, source.path)), None
    else:
        path, revision = source.id, source.revision
    tokenizer = load_tokenizer(path, revision)
    freeze_date(tokenizer, path)
    try_template(tokenizer, path)
    model = load_policy(path, revision)
    require_fit(model, tokenizer, path, prompt=stage.config.tokens.prompt, response=stage.config.tokens.response)
    longest = stage.config.tokens.prompt + stage.config.tokens.response
    require_read_alike(model, path, eos=int(tokenizer.eos_token_id), longest=longest)
    save_model(model, tokenizer, stage.output("models/base"), title="Base model", summary=f"Taken from {path}.")
    write_curves(stage.output("reports/base/curves.csv"), [])
    stage.metrics({"parameters": model.num_parameters()})
    stage.summary(f"{model.num_parameters():,} parameters from {path}")


def _watched(stage: Stage, path: str) -> Path:
    """Where a model lies. Raises ConfigError when DVC does not watch it: other weights in its place would go unseen."""
    try:
        return stage.input(path)
    except ConfigError:
        raise ConfigError(
            f"dvc.yaml does not declare {path}, which base.model of params.yaml names, so DVC would not see other "
            'weights in its place. Add to `deps` of the stage base, in quotes: "${base.model.path}"'
        ) from None


def pretrain(stage: Stage, config: Pretrain) -> None:
    """A small Llama with a tokenizer of its own."""
    texts, tokens = [row["text"] for row in _rows(stage, "texts")], stage.config.tokens
    dialogues = [
        [*row["prompt"], {"role": "assistant", "content": row["response"]}] for row in _rows(stage, "demonstrations")
    ]
    if not texts and not dialogues:
        raise DataError("Nothing to pretrain on: data/clean has neither texts nor demonstrations in the train split")
    contents = [message["content"] for dialogue in dialogues for message in dialogue]
    tokenizer = train_tokenizer([*texts, *contents], config.vocab_size)
    documents = [*encode_ended(tokenizer, texts), *encode_conversations(tokenizer, dialogues, opens=False)]

    context = tokens.prompt + tokens.response
    blocks = pack([documents[i] for i in shuffled(len(documents), stage.seed)], context)
    model = make_llama(config, tokenizer, context, stage.seed)
    steps, total = supervised_steps(blocks, config.loop, epochs=config.epochs, seed=stage.seed)
    history = train(
        LikelihoodObjective(model),
        steps,
        total_steps=total,
        config=config.loop,
        checkpoints=Checkpoints(stage.work),
        recorder=stage,
    )
    save_model(
        model, tokenizer, stage.output("models/base"), title="Base model", summary="A small Llama, pretrained here."
    )
    write_curves(stage.output("reports/base/curves.csv"), history)
    values = of_training(history)
    stage.metrics(values | {"parameters": model.num_parameters(), "blocks": len(blocks)})
    stage.summary(
        f"{model.num_parameters():,} parameters, {len(blocks) * context:,} tokens, loss {values['loss']:.3f}"
        + in_words(history)
    )


def _rows(stage: Stage, table: str) -> list[dict[str, Any]]:
    """Those of the train split."""
    return read_rows(stage.input(f"data/clean/{table}.parquet").parent, table, "train")


def shuffled(rows: int, seed: int) -> list[int]:
    """A random order, so that a block mixes texts and dialogues."""
    return np.random.default_rng(seed).permutation(rows).tolist()


if __name__ == "__main__":
    run_stage(main)
