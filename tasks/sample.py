"""sample: draw K answers a prompt from the SFT policy, for people to rank."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.batching.encoding import decode, encode_prompts
from rlhf.data.ids import lot
from rlhf.data.rows import read_rows
from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.groups import sample_groups
from rlhf.training.learner import make_accelerator


def main(stage: Stage) -> None:
    """Write data/samples."""
    make_accelerator()  # it brings the processes of `accelerate launch` together, which then share the work
    config, tokens = stage.config.sample, stage.config.tokens
    sft = stage.input("models/sft")
    tokenizer, policy = load_tokenizer(sft), load_policy(sft)
    prompts = read_rows(stage.input("data/clean/prompts.parquet").parent, "prompts")
    rows = sorted(prompts, key=lambda row: lot(row["id"], "sample"))
    encoded = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    fits = encoded.lengths <= tokens.prompt
    chosen, too_long = np.flatnonzero(fits)[: config.prompts], int((~fits).sum())
    if not len(chosen):
        raise DataError(f"No prompt to answer: {len(rows)} prompts, all longer than tokens.prompt ({tokens.prompt})")
    groups = sample_groups(
        sampler(stage.config.decoding, sft, tokens, config.batch_size),
        policy,
        [encoded[i] for i in chosen],
        config,
        max_tokens=tokens.response,
        eos=tokenizer.eos_token_id,
        seed=stage.seed,
        progress=stage.progress,
    )
    table = [
        {
            "prompt_id": row["id"],
            "prompt": row["prompt"],
            "use_case": row["use_case"],
            "split": row["split"],
            "responses": [decode(tokenizer, a.response) for a in group],
            "lengths": [len(a.response) for a in group],
        }
        for row, group in zip((rows[i] for i in chosen), groups, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(table), stage.output("data/samples") / "samples.parquet")
    answers = [answer for group in groups for answer in group]
    terminated = sum(a.terminated for a in answers) / len(answers)
    length = sum(len(a.response) for a in answers) / len(answers)
    stage.metrics(
        {
            "prompts": len(table),
            "answers": len(answers),
            "too_long": too_long,
            "terminated": terminated,
            "length": length,
        }
    )
    stage.summary(
        f"{len(answers):,} answers to {len(table):,} prompts, {length:.1f} tokens, {terminated:.1%} ended by themselves"
    )


if __name__ == "__main__":
    run_stage(main)
