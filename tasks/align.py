"""align: move the SFT policy towards what people prefer, by the algorithm that is named on the command line."""

import os
from collections.abc import Callable

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.algorithms.dpo import DpoObjective, reference_log_probs
from rlhf.algorithms.ppo import PpoObjective, PpoSource
from rlhf.algorithms.rankings import ranking_steps
from rlhf.algorithms.supervised import pack
from rlhf.batching.encoding import Turn, encode_prompt
from rlhf.batching.rankings import encode_rankings
from rlhf.config.training import LoopConfig
from rlhf.data.rows import read_rows
from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_reward_model, load_tokenizer, save_model
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.training.checkpoint import Checkpoints
from rlhf.training.curves import tail_mean, write_curves
from rlhf.training.loop import train

Curves = list[dict[str, float]]


def main(stage: Stage) -> None:
    """Write models/policy/<algorithm>."""
    algorithm: Callable[[Stage, PreTrainedTokenizerBase, PreTrainedModel], tuple[Curves, dict[str, float], str]]
    algorithm = {"ppo": ppo, "dpo": dpo}[str(stage.item)]
    sft = stage.input("models/sft")
    tokenizer, policy = load_tokenizer(sft), load_policy(sft)
    history, values, summary = algorithm(stage, tokenizer, policy)
    save_model(
        policy,
        tokenizer,
        stage.output(f"models/policy/{stage.item}"),
        title=f"Policy aligned by {stage.item}",
        summary="Aligned with human feedback from the SFT policy.",
    )
    write_curves(stage.output(f"reports/align/{stage.item}/curves.csv"), history)
    stage.metrics({"loss": tail_mean(history, "loss"), "steps": len(history)} | values)
    stage.summary(summary)


def ppo(
    stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> tuple[Curves, dict[str, float], str]:
    """PPO against the reward model, on prompts of the train split."""
    config, tokens, clean = stage.config.align.ppo, stage.config.tokens, stage.input("data/clean")
    encoded = [encode_prompt(tokenizer, row["prompt"]) for row in read_rows(clean, "prompts", "train")]
    prompts = [ids for ids in encoded if len(ids) <= tokens.prompt]
    if not prompts:
        raise DataError(
            f"No prompt to sample for: {len(encoded)} in the train split, all longer than {tokens.prompt} tokens."
        )
    objective = PpoObjective(policy, load_reward_model(stage.input("models/reward")), config)
    source = PpoSource(
        objective,
        load_policy(stage.input("models/sft")),
        load_reward_model(stage.input("models/reward")),
        prompts,
        pretraining_text(stage, tokenizer) if config.pretraining_coefficient else [],
        config,
        max_tokens=tokens.response,
        eos=tokenizer.eos_token_id,
        seed=stage.seed,
    )
    history = run_loop(stage, objective, source.steps, source.total_steps, config.loop)
    reward, kl = tail_mean(history, "reward"), tail_mean(history, "kl")
    values = {
        "reward": reward,
        "kl": kl,
        "length": tail_mean(history, "length"),
        "too_long": len(encoded) - len(prompts),
    }
    done = len(history) // source.steps_an_iteration
    stopped = "" if len(history) == source.total_steps else f", stopped by max_kl after {done} iterations"
    return history, values, f"reward {history[0]['reward']:.2f} to {reward:.2f}, KL {kl:.1f} nats a sequence{stopped}"


def pretraining_text(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Turn]:
    """Blocks of plain text for the pretraining mix."""
    texts = read_rows(stage.input("data/clean"), "texts", "train")
    if not texts:
        raise DataError(
            "align.ppo.pretraining_coefficient is above 0, but data/clean has no texts. "
            "Set it to 0, or add a text source to collect.sources."
        )
    documents = [tokenizer(row["text"] + tokenizer.eos_token)["input_ids"] for row in texts]
    return pack(documents, stage.config.tokens.prompt + stage.config.tokens.response)


def dpo(
    stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel
) -> tuple[Curves, dict[str, float], str]:
    """DPO on the rankings of the train split; the reference's log-probabilities are kept beside the checkpoints."""
    config = stage.config.align.dpo
    rows = read_rows(stage.input("data/judgements"), "rankings", "train")
    groups, too_long = encode_rankings(tokenizer, rows, stage.config.tokens)
    if not groups:
        raise DataError(f"No ranking to learn from: data/judgements has none that fits ({too_long} answers too long).")
    kept = stage.work / "reference.safetensors"
    if kept.is_file():
        reference = load_file(kept)["log_probs"]
    else:
        reference = reference_log_probs(policy, groups, config.loop.micro_batch_size)
        own = kept.with_suffix(f".{os.getpid()}")  # under `accelerate launch` every process comes here
        save_file({"log_probs": reference}, own)
        own.replace(kept)
    objective = DpoObjective(policy, reference, beta=config.beta, label_smoothing=config.label_smoothing)
    steps, total = ranking_steps(groups, config.loop, epochs=config.epochs, seed=stage.seed)
    history = run_loop(stage, objective, steps, total, config.loop)
    names = ("accuracy", "margin", "chosen_reward", "rejected_reward")
    values = {name: tail_mean(history, name) for name in names}
    margin = f"reward margin {values['margin']:.2f}"
    return (
        history,
        values | {"too_long": too_long},
        f"loss {tail_mean(history, 'loss'):.3f}, accuracy {values['accuracy']:.1%}, {margin}",
    )


def run_loop(stage: Stage, objective: nn.Module, steps: Callable, total: int, loop: LoopConfig) -> Curves:
    """The loop, with this stage's checkpoints and journal."""
    return train(objective, steps, total_steps=total, config=loop, checkpoints=Checkpoints(stage.work), recorder=stage)


if __name__ == "__main__":
    run_stage(main)
