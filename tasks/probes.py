"""What evaluate asks beside the test prompts: harm and what looks like it, many answers to a prompt, unseen texts.

Each has rows of its own, from which the gate computes its intervals.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.encoding import Turn, decode, encode_prompt, encode_prompts
from rlhf.config.training import EvaluateConfig
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_rows
from rlhf.evaluation.answers import of_samples, samples_of
from rlhf.evaluation.diversity import prompt_diversity
from rlhf.evaluation.documents import encode_documents
from rlhf.evaluation.safety import safety_rate, safety_rows
from rlhf.models.cached import cached
from rlhf.models.scoring import turn_log_probs
from rlhf.pipeline.stage import Stage
from rlhf.rollouts.sampling import Sample, Sampler
from tasks.answering import UNHEARD, Speaker

Row = dict[str, Any]
PROBES = 2_000_003  # added to the seed: the answers are drawn with random numbers of their own


def probe(
    stage: Stage,
    speakers: Mapping[str, Speaker],
    prompts: Sequence[Row],
    asked: Sequence[Row],
    arithmetic: Row,
    rows: Path,
) -> dict[str, Any]:
    """Ask each speaker, by the name of its side; write safety, diversity and documents.parquet into the directory
    `rows`, each where it can be measured; return what the metrics hold of it.

    prompts: rows of the test split, of which some are asked again and again. asked: `unseen_requests`, or none.
    """
    config = stage.config.evaluate
    again = [row["prompt"] for row in prompts[: config.diversity_prompts] for _ in range(config.diversity_answers)]
    documents = held_out(stage, speakers["sft"].tokenizer)
    responses, diversity = dict[str, list[str]](), dict[str, list[float]]()
    nats: dict[str, list[float]] = {"tokens": [len(one.response) for one in documents]}
    for offset, (side, speaker) in enumerate(speakers.items()):
        ours = side != "champion"  # which may use other tokens: its diversity and nats are of another measure
        if not ours and not asked:
            continue
        conversations = [*(row["prompt"] for row in asked), *(again if ours else [])]
        samples, found = ask(
            stage, side, speaker, conversations, documents if ours else [], arithmetic, stage.seed + PROBES + offset
        )
        responses[side] = [decode(speaker.tokenizer, one.response) for one in samples[: len(asked)]]
        if ours:
            diversity[f"{side}_distinct_2"] = prompt_diversity(samples[len(asked) :], config.diversity_answers)
            nats[f"{side}_nats"] = found

    from rlhf.world.gold import complies_with_harm, refuses

    safety = safety_rows(asked, responses, complies_with_harm, refuses)
    for name, table in {"safety": safety, "diversity": in_rows(diversity), "documents": in_rows(nats)}.items():
        if table:
            pq.write_table(pa.Table.from_pylist(table), rows / f"{name}.parquet")
    return {
        "harmful_compliance": safety_rate(safety, list(speakers), "harmful", "complied"),
        "over_refusal": safety_rate(safety, list(speakers), "borderline", "refused"),
        "documents": len(documents),
    }


def unseen_requests(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Requests for harm, and harmless ones that look like it, that no stage trained on: as many of each as
    evaluate.safety_prompts, or as there are."""
    from rlhf.world.probes import ASKS, draw_probes

    config, clean = stage.config, stage.input("data/clean")
    trained = {row["id"] for split in ("train", "validation") for row in read_rows(clean, "prompts", split)}

    def allowed(prompt: list[dict[str, str]]) -> bool:
        return prompt_id(prompt) not in trained and len(encode_prompt(tokenizer, prompt)) <= config.tokens.prompt

    return [
        {"prompt_id": prompt_id(prompt), "kind": kind, "prompt": prompt}
        for kind in ASKS
        for prompt in draw_probes(config.world, stage.seed, kind, config.evaluate.safety_prompts, allowed)
    ]


def held_out(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Turn]:
    """Texts of the test split, in the order of their id; where nobody collected texts, answers of people."""
    clean, tokens = stage.input("data/clean"), stage.config.tokens
    rows = read_rows(clean, "texts", "test") or read_rows(clean, "demonstrations", "test")
    texts = [row.get("text") or row["response"] for row in sorted(rows, key=lambda row: row["id"])]
    return encode_documents(tokenizer, texts, tokens.prompt + tokens.response)[: stage.config.evaluate.documents]


def ask(
    stage: Stage,
    side: str,
    speaker: Speaker,
    conversations: Sequence[Any],
    documents: Sequence[Turn],
    arithmetic: Row,
    seed: int,
) -> tuple[list[Sample], list[float]]:
    """One answer to each conversation, and the nats of each document; kept for the other algorithms."""
    config, decoding = stage.config.evaluate, stage.config.decoding
    prompts = [ids.tolist() for ids in encode_prompts(speaker.tokenizer, conversations)]
    settings = {"max_tokens": stage.config.tokens.response, "eos": speaker.tokenizer.eos_token_id, "seed": seed}
    path = stage.kept(
        answer_and_read,
        model=speaker.digest,
        arithmetic=arithmetic,
        prompts=prompts,
        documents=[one.response for one in documents],
        config=config.model_dump(exclude=UNHEARD),
        decoding=decoding.model_dump(),
        **settings,
    )
    progress = partial(stage.progress, label=f"{side}: probes")

    def compute() -> dict[str, Any]:
        return answer_and_read(*speaker.ready(), prompts, documents, config, progress=progress, **settings)

    found = cached(path, compute)
    return samples_of(found), found["nats"].tolist()


def answer_and_read(
    draw: Sampler,
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    documents: Sequence[Turn],
    config: EvaluateConfig,
    **settings: Any,
) -> dict[str, Tensor]:
    """Sampled answers, and -log p of each document, as tensors by name."""
    samples = draw(model, prompts, temperature=config.temperature, **settings)
    return of_samples(samples) | {"nats": -turn_log_probs(model, documents, config.batch_size)}


def prompt_id(prompt: list[dict[str, str]]) -> str:
    """The id that a prompt has in data/clean."""
    return prompt_hash(prompt)[:16]


def in_rows(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """Columns of equal length as rows."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
