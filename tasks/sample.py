"""sample: draw K answers a prompt from the SFT policy, for people to rank."""

from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.batching.encoding import decode, encode_prompts
from rlhf.data.rows import read_rows
from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.engine import sampler
from rlhf.training.step import make_accelerator


def main(stage: Stage) -> None:
    """Write data/samples."""
    make_accelerator()  # it brings the processes of `accelerate launch` together, which then share the work
    config, tokens = stage.config.sample, stage.config.tokens
    sft = stage.input("models/sft")
    tokenizer, policy = load_tokenizer(sft), load_policy(sft)
    rows = sorted(read_rows(stage.input("data/clean/prompts.parquet").parent, "prompts"), key=draw)
    encoded = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    fits = encoded.lengths <= tokens.prompt
    chosen, too_long = np.flatnonzero(fits)[: config.prompts], int((~fits).sum())
    if not len(chosen):
        raise DataError(f"No prompt to answer: {len(rows)} prompts, all longer than tokens.prompt ({tokens.prompt})")
    draw_answers = sampler(stage.config.decoding, sft, tokens, config.batch_size)
    answers = draw_answers(
        policy,
        [ids for i in chosen for ids in [encoded[i].tolist()] * config.answers],
        max_tokens=tokens.response,
        temperature=config.temperature,
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
        for row, group in zip((rows[i] for i in chosen), grouped(answers, config.answers), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(table), stage.output("data/samples") / "samples.parquet")
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


def draw(row: dict[str, Any]) -> str:
    """A random but lasting order; not that of the ids, which are hashes of the prompt as splits are."""
    return sha256(f"sample {row['id']}".encode()).hexdigest()


def grouped(items: list, size: int) -> list[list]:
    """Runs of `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]


if __name__ == "__main__":
    run_stage(main)
