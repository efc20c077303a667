"""evaluate: an aligned policy beside SFT and the champion, on prompts of the test split that no stage trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf import manifest
from rlhf.batching.encoding import decode, encode_prompts
from rlhf.config.judges import Endpoint
from rlhf.data.ids import lot
from rlhf.data.rows import read_rows
from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.answers import Answers
from rlhf.evaluation.diversity import distinct_2
from rlhf.evaluation.rows import answer_rows
from rlhf.evaluation.serving import files, serving
from rlhf.gate import looks
from rlhf.gate.statistics import bootstrap_mean, resampling, win_rate
from rlhf.models.cached import arithmetic
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.processes import launched
from rlhf.pipeline.champion import POLICY
from rlhf.pipeline.receipt import content_key
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.rewards import Rewards, load_reward
from tasks.answering import Speaker, answer_again, answer_all, answer_as_champion, answer_probes, champion_of, in_turn
from tasks.judging import judge
from tasks.people import beside_people
from tasks.probes import probe, unseen_requests

Row = dict[str, Any]
COLUMNS = {"proxy": "reward", "referee": "referee", "gold": "gold"}  # of each judge of a path, in the rows


def main(stage: Stage) -> None:
    """Write reports/evaluate/<algorithm>."""
    if launched() > 1:
        raise ConfigError("evaluate serves the policy and asks the judge, once each: start it without a launcher")
    sft, policy_path = stage.input("models/sft"), stage.input(f"models/policy/{stage.item}")
    tokenizer = load_tokenizer(sft)
    prompts, encoded, too_long = test_prompts(stage, tokenizer)
    reference, policy = load_policy(sft), load_policy(policy_path)
    draw = sampler(stage.config.decoding, sft, stage.config.tokens, stage.config.evaluate.batch_size)
    models = {"sft": reference, "policy": policy}
    held, followed = beside_people(stage, draw, tokenizer, models)
    directory = stage.output(f"reports/evaluate/{stage.item}/rows")
    served = serve(stage, policy_path, policy, tokenizer, prompts, encoded, directory)
    speakers = {
        "sft": Speaker(stage.inputs["models/sft"], tokenizer, lambda: (draw, reference)),
        "policy": Speaker(stage.inputs[f"models/policy/{stage.item}"], tokenizer, lambda: (draw, policy)),
    }
    requests = unseen_requests(stage, tokenizer) if stage.config.evaluate.truth == "world" else []
    if stage.champion:
        heard = [row["prompt"] for row in (*prompts, *requests)]
        speakers["champion"] = champion_of(stage, stage.champion, draw, heard)
    probed = probe(stage, speakers, prompts, requests, arithmetic(reference), directory)
    reward = Rewards.load(stage.input("models/reward"), stage.config.reward.criteria, "raw")
    rewards = reward, load_reward(stage.input("models/referee"))
    kept = sorted(stage.input(f"models/snapshots/{stage.item}").glob("*.safetensors"))
    answers = answer_all(
        stage, draw, reference, in_turn(stage, reference, policy, kept), rewards, encoded, tokenizer.eos_token_id
    )
    along = {file.stem: answers.pop(file.stem) for file in kept}
    if stage.champion:
        answers["champion"] = answer_as_champion(stage, speakers["champion"], reference, rewards, tokenizer, prompts)
    rows = answer_rows(prompts, encoded, answers, reward, tokenizer)
    if stage.config.evaluate.truth == "world":
        judge_by_gold(rows, list(answers))
    again = [
        decode(tokenizer, s.response) for s in answer_again(stage, draw, reference, encoded, tokenizer.eos_token_id)
    ]
    judging = judge(stage, rows, [name for name in answers if name != "policy"], again, reward, reference, tokenizer)
    pq.write_table(pa.Table.from_pylist(rows), directory / "rows.parquet")

    values = measure(stage, rows, answers) | probed
    values |= {
        "judging": judging,
        "beliefs": held,
        "groups": followed,
        "path": path(stage, rows, along | {"policy": answers["policy"]}, reward, tokenizer),
        "algorithm": stage.item,
        "too_long": too_long,
        "policy_digest": stage.inputs[f"models/policy/{stage.item}"],
        "reference_digest": stage.inputs["models/sft"],
        "champion_digest": stage.params[POLICY] or None,
        "prompts_digest": content_key({"prompts": [[prompt["id"], prompt["prompt"]] for prompt in prompts]}),
        "prompts_sketch": looks.sketch(prompt["prompt"] for prompt in prompts),
        "lineage": lineage(stage),
        "files": files(policy_path, sft),
        "serving": served,
    }
    stage.metrics(values)
    win, kl, nulls = values["win_rate"], values["kl"]["value"], judging["nulls"]["sft"]["count"]
    stage.summary(
        f"win rate against SFT {win['value']:.1%} [{win['low']:.1%}, {win['high']:.1%}] by {values['judge']}"
        f"{f' ({nulls} without a verdict, taken for lost)' if nulls else ''}, "
        f"reward {values['proxy_reward']['sft']:.2f} to {values['proxy_reward']['policy']:.2f}, KL {kl:.1f}"
    )


def test_prompts(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Row], list[list[int]], int]:
    """Prompts of the test split with their ids, in an order that is drawn, and how many were too long."""
    rows = sorted(read_rows(stage.input("data/clean"), "prompts", "test"), key=lambda row: lot(row["id"], "evaluate"))
    encoded = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    fits = encoded.lengths <= stage.config.tokens.prompt
    chosen = np.flatnonzero(fits)[: stage.config.evaluate.prompts]
    if not len(chosen):
        raise DataError(
            f"No prompt to evaluate on: {len(rows)} in the test split, all longer than tokens.prompt "
            f"({stage.config.tokens.prompt}). Collect more prompts or raise the limit"
        )
    return [rows[i] for i in chosen], [encoded[i].tolist() for i in chosen], int((~fits).sum())


def serve(
    stage: Stage,
    directory: Path,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Row],
    encoded: Sequence[list[int]],
    rows: Path,
) -> dict[str, Any]:
    """What came of serving the policy, and the champion in the same way, on the first of the prompts. What was asked,
    and what the policy said, is kept in `rows`/serving.json: the promotion asks it again."""
    config, max_tokens = stage.config.evaluate.serving, stage.config.tokens.response
    asked = [prompt["prompt"] for prompt in prompts[: config.prompts]]
    ids = encoded[: config.prompts]
    answers = answer_probes(stage, policy, ids, max_tokens=max_tokens, eos=tokenizer.eos_token_id)
    record = {"prompts": asked, "answers": answers, "max_tokens": max_tokens, "timeout": config.timeout}
    (rows / "serving.json").write_text(json.dumps(record), encoding="utf-8")
    torch.cuda.empty_cache()  # whoever serves it needs memory of the same GPU
    return serving(
        directory, stage.champion, asked, answers, max_tokens=max_tokens, rounds=config.rounds, timeout=config.timeout
    )


def lineage(stage: Stage) -> dict[str, Any]:
    """Of every input, and every table in one that another was made from: its digest and, by its receipt, those of what
    it was made from; of a table, what it lies in."""
    links = {
        path: {"digest": stage.inputs[path], "inputs": receipt["inputs"]} for path, receipt in stage.upstream.items()
    }
    used = sorted({source for link in links.values() for source in link["inputs"]} - links.keys())
    lies_in = {source: str(Path(source).parent) for source in used}
    return links | {
        table: {"digest": manifest.digest(stage.workspace / table), "inputs": {output: stage.inputs[output]}}
        for table, output in lies_in.items()
        if output in links
    }


def judge_by_gold(rows: list[Row], models: Sequence[str]) -> None:
    """Add what the simulated world knows of each answer: its gold reward, and whether it is correct."""
    from rlhf.world.gold import gold, has_right_answer

    for row in rows:
        row["has_right_answer"] = has_right_answer(row["prompt"])
        for name in models:
            parts = gold(row["prompt"], row[f"{name}_response"])
            row |= {f"{name}_gold": parts.total, f"{name}_correct": parts.correct}


def path(
    stage: Stage, rows: list[Row], along: Mapping[str, Answers], reward: Rewards, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """What each policy of a training was, a mean over the prompts each: how far from SFT, what it had gained over SFT,
    and by how much the policy itself, which is the last, is ahead of it."""
    gate = stage.config.gate

    def mean(values: NDArray) -> dict[str, float]:
        return asdict(bootstrap_mean(values, **resampling(gate, stage.seed)))

    def judged(answers: Answers) -> dict[str, NDArray]:
        found = {"proxy": reward.total(answers.rewards).double().numpy(), "referee": np.array(answers.referee)}
        if stage.config.evaluate.truth == "world":
            from rlhf.world.gold import gold

            texts = [decode(tokenizer, sample.response) for sample in answers.samples]
            found["gold"] = np.array([gold(r["prompt"], text).total for r, text in zip(rows, texts, strict=True)])
        return found

    sft = {judge: np.array([row[f"sft_{name}"] for row in rows]) for judge, name in COLUMNS.items()}
    found, each = list[dict[str, Any]](), {name: judged(answers) for name, answers in along.items()}
    last = each["policy"]
    for name, here in each.items():
        gains = {judge: mean(here[judge] - sft[judge]) if judge in here else None for judge in COLUMNS}
        leads = {judge: mean(last[judge] - here[judge]) if judge in here else None for judge in COLUMNS}
        found.append({"policy": name, "kl": mean(np.array(along[name].kl)), **gains, "lead": leads})
    return found


def measure(stage: Stage, rows: list[Row], answers: dict[str, Answers]) -> dict[str, Any]:
    """The metrics of the evaluation, as the gate and the report read them."""
    judged_by, bootstrap = stage.config.evaluate.judge, resampling(stage.config.gate, stage.seed)

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype=np.float64)

    def won(opponent: str) -> np.ndarray:
        return np.nan_to_num(column(f"points_{opponent}"))  # no verdict is a loss

    def means(suffix: str) -> dict[str, float]:
        return {name: float(column(f"{name}_{suffix}").mean()) for name in ("policy", "sft")}

    return {
        "judge": judged_by.kind,
        "judge_model": judged_by.model if isinstance(judged_by, Endpoint) else None,
        "judge_digest": judge_digest(stage),
        "prompts": len(rows),
        "win_rate": asdict(win_rate(won("sft"), **bootstrap)),
        "champion_win_rate": asdict(win_rate(won("champion"), **bootstrap)) if "champion" in answers else None,
        "proxy_reward": means("reward"),
        "referee_reward": means("referee"),
        "rewards": {criterion: means(f"reward_{criterion}") for criterion in stage.config.reward.criteria},
        "gold_reward": means("gold") if stage.config.evaluate.truth == "world" else None,
        "kl": asdict(bootstrap_mean(column("kl"), **bootstrap)),
        "length": means("length"),
        "terminated": means("terminated"),
        "empty": {name: float(np.mean([not row[f"{name}_response"] for row in rows])) for name in ("policy", "sft")},
        "distinct_2": {name: distinct_2([s.response for s in answers[name].samples]) for name in ("policy", "sft")},
    }


def judge_digest(stage: Stage) -> str:
    """What the judge is: its kind, the language model behind a server, the reward models and their weights. People are
    one judge, however many have said something."""
    judge, weights = stage.config.evaluate.judge, stage.config.reward.criteria
    identity: dict[str, Any] = {"kind": judge.kind}
    if isinstance(judge, Endpoint):
        identity["model"] = judge.model
    elif judge.kind == "referee":
        identity["model"] = stage.inputs["models/referee"]
    elif judge.kind == "reward":
        identity["weights"] = weights
        identity["models"] = {criterion: stage.inputs[f"models/reward/{criterion}"] for criterion in weights}
    return content_key(identity)


if __name__ == "__main__":
    run_stage(main)
