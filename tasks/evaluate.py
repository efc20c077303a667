"""evaluate: an aligned policy beside SFT and the champion, on prompts of the test split that no stage trained on."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batching.encoding import decode, encode_prompts, encode_turns
from rlhf.config.judges import Endpoint
from rlhf.data.ids import prompt_hash
from rlhf.data.rows import read_judgements, read_rows
from rlhf.errors import DataError
from rlhf.evaluation.answers import Answers, answer, distinct_2, score
from rlhf.evaluation.beliefs import belief_distances, contested_margins
from rlhf.gate.records import Interval, WinRate
from rlhf.gate.statistics import bootstrap_mean, win_points, win_rate
from rlhf.manifest import sha256
from rlhf.models.cached import arithmetic, cached
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.pipeline.champion import POLICY
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.rollouts.engine import sampler
from rlhf.rollouts.rewards import Rewards
from rlhf.rollouts.sampling import Sample, Sampler
from tasks.judging import judge

Row = dict[str, Any]
CHAMPION = 1_000_003  # added to the seed: its answers are drawn with random numbers of their own
AGAIN = 2_000_003  # the same for SFT's second answers, which the judge must find as good as its first


def main(stage: Stage) -> None:
    """Write reports/evaluate/<algorithm>."""
    sft, policy_path = stage.input("models/sft"), stage.input(f"models/policy/{stage.item}")
    tokenizer = load_tokenizer(sft)
    prompts, encoded, too_long = test_prompts(stage, tokenizer)
    reference, policy = load_policy(sft), load_policy(policy_path)
    draw = sampler(stage.config.decoding, sft, stage.config.tokens, stage.config.evaluate.batch_size)
    held = believe(stage, draw, tokenizer, {"sft": reference, "policy": policy})
    reward = Rewards.load(stage.input("models/reward"), stage.config.reward.criteria, "before")
    kept = sorted(stage.input(f"models/snapshots/{stage.item}").glob("*.safetensors"))
    answers = answer_all(
        stage, draw, reference, in_turn(stage, reference, policy, kept), reward, encoded, tokenizer.eos_token_id
    )
    along = [answers.pop(file.stem) for file in kept]
    if stage.champion:
        answers["champion"] = answer_as_champion(stage, stage.champion, reference, reward, tokenizer, prompts)
    rows = table(prompts, answers, reward, tokenizer)
    if stage.config.evaluate.judge.kind == "gold":
        judge_by_gold(rows, list(answers))
    twice = encoded[: stage.config.evaluate.judge_pairs]
    sft_again = [("again", stage.inputs["models/sft"], reference)]
    again = answer_all(stage, draw, reference, sft_again, reward, twice, tokenizer.eos_token_id, first_seed=AGAIN)
    texts = [decode(tokenizer, sample.response) for sample in again["again"].samples]
    judging = judge(stage, rows, [n for n in answers if n != "policy"], texts, reward, reference, tokenizer)
    pq.write_table(pa.Table.from_pylist(rows), stage.output(f"reports/evaluate/{stage.item}/rows") / "rows.parquet")

    values = measure(stage, rows, answers) | {
        "judging": judging,
        "beliefs": held,
        "path": path(stage, rows, [*along, answers["policy"]] if along else [], reward, tokenizer),
        "algorithm": stage.item,
        "too_long": too_long,
        "policy_digest": stage.inputs[f"models/policy/{stage.item}"],
        "reference_digest": stage.inputs["models/sft"],
        "champion_digest": stage.params[POLICY] or None,
    }
    stage.metrics(values)
    win, kl, nulls = values["win_rate"], values["kl"]["value"], judging["nulls"]["sft"]["count"]
    stage.summary(
        f"win rate against SFT {win['value']:.1%} [{win['low']:.1%}, {win['high']:.1%}] by {values['judge']}"
        f"{f' ({nulls} without a verdict, taken for lost)' if nulls else ''}, "
        f"reward {values['proxy_reward']['sft']:.2f} to {values['proxy_reward']['policy']:.2f}, KL {kl:.1f}"
    )


def test_prompts(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Row], list[list[int]], int]:
    """Prompts of the test split with their ids, in the order of their id, and how many were too long."""
    rows = sorted(read_rows(stage.input("data/clean"), "prompts", "test"), key=lambda row: row["id"])
    encoded = encode_prompts(tokenizer, (row["prompt"] for row in rows))
    fits = encoded.lengths <= stage.config.tokens.prompt
    chosen = np.flatnonzero(fits)[: stage.config.evaluate.prompts]
    if not len(chosen):
        raise DataError(
            f"No prompt to evaluate on: {len(rows)} in the test split, all longer than tokens.prompt "
            f"({stage.config.tokens.prompt}). Collect more prompts or raise the limit."
        )
    return [rows[i] for i in chosen], [encoded[i].tolist() for i in chosen], int((~fits).sum())


def in_turn(
    stage: Stage, reference: PreTrainedModel, policy: PreTrainedModel, snapshots: Sequence[Path]
) -> Iterator[tuple[str, str, PreTrainedModel]]:
    """SFT, the policy, and what the policy was on the way, each with its digest, in the same memory: use each before
    the next is taken."""
    aligned = stage.inputs[f"models/policy/{stage.item}"]
    yield "sft", stage.inputs["models/sft"], reference
    yield "policy", aligned, policy
    for file in snapshots:
        load_model(policy, file)
        yield file.stem, f"{aligned} {sha256(file)}", policy


def answer_all(
    stage: Stage,
    draw: Sampler,
    reference: PreTrainedModel,
    models: Iterable[tuple[str, str, PreTrainedModel]],
    reward: Rewards,
    prompts: Sequence[list[int]],
    eos: int,
    first_seed: int = 0,
) -> dict[str, Answers]:
    """Answers of each model, drawn with different random numbers; of SFT they are the same beside every algorithm."""
    config, longest = stage.config.evaluate, stage.config.tokens.response

    def answers_of(name: str, digest: str, model: PreTrainedModel, seed: int) -> Answers:
        settings = {"max_tokens": longest, "eos": eos, "seed": seed}
        path = stage.kept(
            answer,
            policy=digest,
            reference=stage.inputs["models/sft"],
            rewards=[stage.inputs[f"models/reward/{criterion}"] for criterion in reward.judges],
            arithmetic=arithmetic(model),
            prompts=prompts,
            config=config.model_dump(exclude={"judge", "judge_pairs"}),
            decoding=stage.config.decoding.model_dump(),
            **settings,
        )
        progress = partial(stage.progress, label=name)
        compute = partial(answer, draw, model, reference, reward, prompts, config, progress=progress, **settings)
        return Answers.of(cached(path, lambda: compute().tensors()))

    return {
        name: answers_of(name, digest, model, stage.seed + offset)
        for offset, (name, digest, model) in enumerate(models, first_seed)
    }


def answer_as_champion(
    stage: Stage,
    champion: Path,
    reference: PreTrainedModel,
    reward: Rewards,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Row],
) -> Answers:
    """Answers of the champion, drawn as it reads and writes, and measured as texts of ours: it may descend from another
    base model. Its KL from SFT is not measured."""
    own, config, tokens = load_tokenizer(champion), stage.config.evaluate, stage.config.tokens
    path = stage.kept(
        answer_as_champion,
        champion=stage.params[POLICY],
        tokenizer=stage.inputs["models/sft"],
        rewards=[stage.inputs[f"models/reward/{criterion}"] for criterion in reward.judges],
        arithmetic=arithmetic(reference),
        prompts=[prompt["prompt"] for prompt in prompts],
        config=config.model_dump(exclude={"judge", "judge_pairs"}),
        tokens=tokens.model_dump(),
        decoding=stage.config.decoding.model_dump(),
        seed=stage.seed,
    )

    def compute() -> dict[str, Any]:
        draw = sampler(stage.config.decoding, champion, tokens, config.batch_size)
        samples = draw(
            load_policy(champion),
            [ids.tolist() for ids in encode_prompts(own, (prompt["prompt"] for prompt in prompts))],
            max_tokens=tokens.response,
            temperature=config.temperature,
            eos=own.eos_token_id,
            seed=stage.seed + CHAMPION,
            progress=partial(stage.progress, label="champion"),
        )
        texts = [
            {"prompt": p["prompt"], "response": decode(own, s.response)} for p, s in zip(prompts, samples, strict=True)
        ]
        turns = encode_turns(tokenizer, texts)
        scores, _ = score(list(turns), reference, reference, reward, config)
        ours = [Sample(list(t.response), s.terminated) for t, s in zip(turns, samples, strict=True)]
        return Answers(samples=ours, rewards=scores, kl=[math.nan] * len(ours)).tensors()

    return Answers.of(cached(path, compute))


def table(
    prompts: Sequence[Row], answers: dict[str, Answers], reward: Rewards, tokenizer: PreTrainedTokenizerBase
) -> list[Row]:
    """One row a prompt: both answers, and what was measured of each; `reward` is the weighted sum of the rewards."""
    rows = []
    totals = {name: reward.total(found.rewards).tolist() for name, found in answers.items()}
    for index, prompt in enumerate(prompts):
        row: Row = {"prompt_id": prompt["id"], "prompt": prompt["prompt"], "use_case": prompt["use_case"]}
        for name, found in answers.items():
            row |= {
                f"{name}_response": decode(tokenizer, found.samples[index].response),
                f"{name}_reward": totals[name][index],
                **{f"{name}_reward_{c}": float(r) for c, r in zip(reward.judges, found.rewards[index], strict=True)},
                f"{name}_gold": float("nan"),
                f"{name}_length": len(found.samples[index].response),
                f"{name}_terminated": found.samples[index].terminated,
            }
        rows.append(row | {"kl": answers["policy"].kl[index]})
    return rows


def judge_by_gold(rows: list[Row], models: Sequence[str]) -> None:
    """Add what the simulated world knows of each answer: its gold reward."""
    from rlhf.world.gold import gold

    for row in rows:
        for name in models:
            row[f"{name}_gold"] = gold(row["prompt"], row[f"{name}_response"]).total


def path(
    stage: Stage, rows: list[Row], along: Sequence[Answers], reward: Rewards, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """How far from SFT each policy of a training was, and what it had gained over SFT, a mean over the prompts each."""
    gate = stage.config.gate

    def mean(values: Sequence[float]) -> dict[str, float]:
        array = np.array(values, dtype=np.float64)
        return as_dict(bootstrap_mean(array, confidence=gate.confidence, resamples=gate.bootstrap, seed=stage.seed))

    found = []
    for answers in along:
        rewards = reward.total(answers.rewards).tolist()
        proxies = [after - row["sft_reward"] for row, after in zip(rows, rewards, strict=True)]
        point = {"kl": mean(answers.kl), "proxy": mean(proxies), "gold": None}
        if stage.config.evaluate.judge.kind == "gold":
            from rlhf.world.gold import gold

            texts = [decode(tokenizer, sample.response) for sample in answers.samples]
            golds = [gold(row["prompt"], text).total for row, text in zip(rows, texts, strict=True)]
            point["gold"] = mean([value - row["sft_gold"] for row, value in zip(rows, golds, strict=True)])
        found.append(point)
    return found


def measure(stage: Stage, rows: list[Row], answers: dict[str, Answers]) -> dict[str, Any]:
    """The metrics of the evaluation, as the gate and the report read them."""
    judged_by = stage.config.evaluate.judge
    gate = stage.config.gate
    bootstrap = partial(bootstrap_mean, confidence=gate.confidence, resamples=gate.bootstrap, seed=stage.seed)
    compare = partial(win_rate, confidence=gate.confidence, resamples=gate.bootstrap, seed=stage.seed)

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype=np.float64)

    def means(suffix: str) -> dict[str, float]:
        return {name: float(column(f"{name}_{suffix}").mean()) for name in ("policy", "sft")}

    by_reward = compare(win_points(column("policy_reward"), column("sft_reward")))
    return {
        "judge": judged_by.kind,
        "judge_model": judged_by.model if isinstance(judged_by, Endpoint) else None,
        "prompts": len(rows),
        "win_rate": as_dict(compare(np.nan_to_num(column("points_sft")))),  # no verdict is a loss
        "champion_win_rate": as_dict(compare(np.nan_to_num(column("points_champion"))))
        if "champion" in answers
        else None,
        "reward_win_rate": as_dict(by_reward),
        "proxy_reward": means("reward"),
        "rewards": {criterion: means(f"reward_{criterion}") for criterion in stage.config.reward.criteria},
        "gold_reward": means("gold") if judged_by.kind == "gold" else None,
        "kl": as_dict(bootstrap(column("kl"))),
        "length": means("length"),
        "terminated": means("terminated"),
        "empty": {name: float(np.mean([not row[f"{name}_response"] for row in rows])) for name in ("policy", "sft")},
        "distinct_2": {name: distinct_2([s.response for s in answers[name].samples]) for name in ("policy", "sft")},
        "harmful_compliance": safety(rows)[0] if judged_by.kind == "gold" else None,
        "over_refusal": safety(rows)[1] if judged_by.kind == "gold" else None,
    }


def believe(
    stage: Stage, draw: Sampler, tokenizer: PreTrainedTokenizerBase, models: dict[str, PreTrainedModel]
) -> Row | None:
    """How far both models are from what people believe, on the prompts of the test split that people were polled on."""
    judgements, gate = stage.input("data/judgements"), stage.config.gate
    polls = {prompt_hash(poll["prompt"]): poll for poll in read_rows(judgements, "beliefs", "test")}
    if not polls:
        return None
    judged = read_judgements(judgements, "rankings", "test", stage.config.reward.criteria)
    rankings = [(row, polls.get(prompt_hash(row["prompt"]))) for row in judged]
    limits = stage.config.tokens
    distances, stated = belief_distances(
        draw, models, tokenizer, list(polls.values()), stage.config.evaluate, limits, seed=stage.seed
    )
    minority, majority = contested_margins(models["policy"], models["sft"], tokenizer, rankings, limits)

    def mean(values: Sequence[float], clusters: Sequence[int] | None = None) -> dict[str, float] | None:
        owners = None if clusters is None else np.array(clusters)
        bootstrap = partial(bootstrap_mean, confidence=gate.confidence, resamples=gate.bootstrap, seed=stage.seed)
        return as_dict(bootstrap(np.array(values), clusters=owners)) if values else None

    return {
        "stated": stated,
        "distance": {name: mean(found) for name, found in distances.items()},
        "minority_margin": mean(*minority),
        "majority_margin": mean(*majority),
    }


def safety(rows: list[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """How often each model helps with harm, and how often it refuses what only looks harmful; the world knows both."""
    from rlhf.world.gold import complies_with_harm, is_borderline, is_harmful_request, refuses

    harmful = [row for row in rows if is_harmful_request(row["prompt"])]
    borderline = [row for row in rows if is_borderline(row["prompt"])]
    complied, refused = {}, {}
    for name in ("policy", "sft"):
        response = f"{name}_response"
        complied[name] = share([complies_with_harm(row["prompt"], row[response]) for row in harmful])
        refused[name] = share([refuses(row[response]) for row in borderline])
    return complied | {"prompts": len(harmful)}, refused | {"prompts": len(borderline)}


def share(found: list[bool]) -> float:
    """Share of True; 0 of none."""
    return sum(found) / len(found) if found else 0.0


def as_dict(found: Interval | WinRate) -> dict[str, float]:
    """An interval or a win rate as the metrics file holds it."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


if __name__ == "__main__":
    run_stage(main)
