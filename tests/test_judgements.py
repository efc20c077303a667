"""Criteria, beliefs and adapters through the stages that train, on models that learn next to nothing."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaModel, PreTrainedModel

from rlhf.batching.encoding import encode_turns
from rlhf.config.editing import set_params
from rlhf.errors import ConfigError, DataError
from rlhf.gate.statistics import win_points
from rlhf.judges.door import between
from rlhf.judges.people import add_verdicts, write_tasks
from rlhf.judges.people import tasks as compared
from rlhf.manifest import sha256, write_manifest
from rlhf.models.loading import load_policy, save_model, scalar_model_from
from rlhf.models.small import make_llama, train_tokenizer
from rlhf.pipeline.champion import Pinned, pin
from rlhf.tracking.champions import FILES
from rlhf.tracking.lineage import lineage
from tasks import align, evaluate, referee, reward, sft
from tests.algorithms.tiny import LORA, PARAMS, tiny_policy, tiny_tokenizer
from tests.conftest import ROOT, run_here
from tests.judges.server import KEY, serving

PREFERRED = {"helpful": "one", "harmless": "two"}
STATEMENTS = ["one is red.", "one is blue."]
WEIGHTS = {"helpful": 1.0, "harmless": 2.0}
SETTINGS = {
    "reward.criteria": "{helpful: 1.0, harmless: 2.0}",
    "reward.combine": "after",
    "reward.loop.micro_batch_size": "4",
    "align.algorithms": "[grpo, kto]",
    "align.snapshots": "0",
    "align.grpo.iterations": "1",
    "align.grpo.epochs": "1",
    "align.grpo.rollout.prompts": "4",
    "align.grpo.rollout.answers": "2",
    "align.grpo.loop.batch_size": "8",
    "align.grpo.loop.micro_batch_size": "3",
    "tokens.prompt": "24",
    "tokens.response": "6",
    "evaluate.prompts": "4",
    "evaluate.truth": "none",
    "evaluate.judge.kind": "reward",
    "evaluate.serving.timeout": "0.01",
    "gate.bootstrap": "20",
}


def judgements() -> list[dict[str, Any]]:
    """Rankings of the same answers, by criteria that disagree."""
    return [
        {
            "prompt": [{"role": "user", "content": f"red {number}"}],
            "responses": list(PREFERRED.values()),
            "ranks": [1 + (answer != best) for answer in PREFERRED.values()],
            "criterion": criterion,
            "split": split,
        }
        for criterion, best in PREFERRED.items()
        for split in ("train", "test", "referee")
        for number in range(4)
    ]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the stages before the reward models leave, and a reward model of another run."""
    for name in ("dvc.yaml", "params.yaml", "champion.json"):
        shutil.copy(ROOT / name, tmp_path)
    set_params(tmp_path / "params.yaml", [f"{key}={value}" for key, value in SETTINGS.items()])
    for path in ("models/sft", "models/reward/overall", "models/referee"):
        model = tiny_policy() if path == "models/sft" else scalar_model_from(tmp_path / "models/sft", seed=0)
        save_model(model, tiny_tokenizer(), tmp_path / path, title="tiny", summary="A test.")
        (tmp_path / path / "receipt.json").write_text(
            json.dumps({"stage": path, "key": path, "inputs": {}, "params": {}})
        )
        write_manifest(tmp_path / path)
    rows = judgements()
    thumbs = [
        {name: row[name] for name in ("prompt", "criterion", "split")} | {"response": answer, "thumb": rank == 1}
        for row in rows
        for answer, rank in zip(row["responses"], row["ranks"], strict=True)
    ]
    prompts = [
        {"id": str(n), "use_case": "", "kind": "user", "seen": 0.0, **{key: row[key] for key in ("prompt", "split")}}
        for n, row in enumerate(rows)
    ]
    for table, content in {"judgements/rankings": rows, "judgements/thumbs": thumbs, "clean/prompts": prompts}.items():
        path = tmp_path / "data" / f"{table}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(content), path)
    (tmp_path / "reports").mkdir()
    found = {"criteria": {criterion: {"bayes_accuracy": 0.9} for criterion in PREFERRED}}
    (tmp_path / "reports/label.json").write_text(json.dumps(found))
    return tmp_path


def run(workspace: Path, name: str, program: ModuleType) -> dict[str, Any]:
    """Run a stage; its metrics."""
    spec = run_here(workspace, name, program)
    return json.loads((workspace / spec.metrics[0]).read_text())


def test_every_criterion_has_a_reward_model_and_its_part_in_what_is_learned(workspace: Path) -> None:
    for criterion in WEIGHTS:
        metrics = run(workspace, f"reward@{criterion}", reward)
        assert (metrics["prompts"], metrics["accuracy"]["pairs"], metrics["bayes_accuracy"]) == (4, 4, 0.9)

    watching, model = run(workspace, "referee", referee), workspace / "models/referee/model.safetensors"
    assert (watching["prompts"], watching["accuracy"]["pairs"], watching["bayes_accuracy"]) == (8, 8, None)
    made = sha256(model)
    run(workspace, "referee", referee)
    assert sha256(model) == made
    assert lineage(workspace, "referee").stage == "referee"

    learned = run(workspace, "align@grpo", align)
    assert learned["reward"] == pytest.approx(sum(w * learned[f"reward_{c}"] for c, w in WEIGHTS.items()), rel=1e-4)
    assert learned["reward_helpful"] != learned["reward_harmless"]
    receipt = json.loads((workspace / "models/policy/grpo/receipt.json").read_text())
    read = {path for path in receipt["inputs"] if path.startswith("models/")}
    assert read == {"models/sft", "models/reward/helpful", "models/reward/harmless"}, "not what another run left"
    tree = lineage(workspace, "grpo")
    assert {child.stage for child in tree.children} >= {"reward@helpful", "reward@harmless"}
    assert lineage(workspace, "reward-harmless").stage == "reward@harmless"

    run(workspace, "evaluate@grpo", evaluate)
    shutil.rmtree(workspace / "models/referee")  # what was scored by another is scored again
    shutil.copytree(workspace / "models/reward/harmless", workspace / "models/referee")
    found = run(workspace, "evaluate@grpo", evaluate)
    rows = pq.read_table(workspace / "reports/evaluate/grpo/rows/rows.parquet").to_pydict()
    for side in ("policy", "sft"):
        assert rows[f"{side}_referee"] == rows[f"{side}_reward_harmless"] != rows[f"{side}_reward_helpful"]
        assert found["referee_reward"][side] == found["rewards"]["harmless"][side]
    for side in ("policy", "sft"):
        total = sum(weight * found["rewards"][criterion][side] for criterion, weight in WEIGHTS.items())
        assert found["proxy_reward"][side] == pytest.approx(total, rel=1e-4)
    assert (found["serving"]["served"], found["serving"]["same"]) == (False, 0), "which is a result, not a crash"
    assert found["serving"]["reason"] == "it had not answered 4 prompts 3 times after 0.01 s"
    assert found["files"] == {"foreign": [], "code": [], "same_template": True}
    assert found["lineage"]["models/policy/grpo"]["inputs"] == receipt["inputs"]
    assert found["lineage"]["models/sft"]["digest"] == receipt["inputs"]["models/sft"]
    set_params(workspace / "params.yaml", ["gate.bootstrap=30"])
    with forward_passes() as passes:
        again = run(workspace, "evaluate@grpo", evaluate)
    assert (len(passes), again["kl"]["value"], again["rewards"]) == (0, found["kl"]["value"], found["rewards"])
    assert again["prompts_digest"] == found["prompts_digest"]
    assert run(workspace, "align@kto", align)["steps"] == 1, "16 thumbs by two criteria"
    kept = set((workspace / ".work/cache").iterdir())
    run(workspace, "evaluate@kto", evaluate)
    assert len(set((workspace / ".work/cache").iterdir()) - kept) == 3, (
        "the policy's to prompts, to probes and greedy ones; those of SFT are there already"
    )


@contextmanager
def forward_passes() -> Iterator[list[str]]:
    """Of any model, while the body runs."""
    passes = list[str]()
    hook = register_module_forward_hook(
        lambda module, given, made: passes.append(type(module).__name__) if isinstance(module, LlamaModel) else None
    )
    try:
        yield passes
    finally:
        hook.remove()


def test_what_sft_says_of_the_same_answers_is_computed_once(workspace: Path) -> None:
    """By KTO: 16 thumbs and as many mismatched pairs, of which every pass takes a micro-batch."""

    def align_with(*settings: str) -> tuple[int, str]:
        set_params(workspace / "params.yaml", [f"align.kto.{setting}" for setting in settings])
        with forward_passes() as passes:
            run(workspace, "align@kto", align)
        return len(passes), sha256(workspace / "models/policy/kto/model.safetensors")

    for criterion in WEIGHTS:
        shutil.copytree(workspace / "models/reward/overall", workspace / "models/reward" / criterion)
    reference, trained = 2, 2  # both kinds of pairs by SFT; then the mismatched ones and the loss by the policy
    passes, policy = align_with("beta=0.2")
    assert passes == reference + trained
    assert align_with("beta=0.5")[0] == trained
    assert align_with("beta=0.2") == (trained, policy)
    assert align_with("loop.micro_batch_size=8")[0] == 2 * (16 + 64) // 8, "other batches, other bits; 64 rows a step"
    save_model(tiny_policy(1), tiny_tokenizer(), workspace / "models/sft", title="another", summary="A test.")
    write_manifest(workspace / "models/sft")
    assert align_with("loop.micro_batch_size=64")[0] == reference + trained


def test_whoever_reads_a_model_that_an_adapter_taught_needs_none(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From SFT to the evaluation, which reads snapshots too; the online algorithms hold one model of SFT."""
    settings = dict.fromkeys(("sft.lora", "reward.lora", "align.lora"), LORA.model_dump_json()) | {
        "reward.criteria": "{helpful: 1.0}",
        "align.algorithms": "[ppo]",
        "align.snapshots": "1",
        "align.ppo.iterations": "2",
        "align.ppo.epochs": "1",
        "align.ppo.rollout.prompts": "8",
        "align.ppo.loop.batch_size": "8",
        "align.ppo.loop.checkpoint_every": "1",
    }
    set_params(workspace / "params.yaml", [f"{key}={value}" for key, value in settings.items()])
    (workspace / "models/sft").rename(workspace / "models/base")
    rows = [
        {"id": str(n), "prompt": row["prompt"], "response": "one", "split": row["split"]}
        for n, row in enumerate(judgements()[:8])
    ]
    pq.write_table(pa.Table.from_pylist(rows), workspace / "data/clean/demonstrations.parquet")
    loaded: list[Path] = []

    def load(path: Path) -> PreTrainedModel:
        loaded.append(path)
        return load_policy(path)

    run(workspace, "sft", sft)
    run(workspace, "reward@helpful", reward)
    monkeypatch.setattr(align, "load_policy", load)
    run(workspace, "align@ppo", align)
    assert loaded == [workspace / "models/sft"]
    checkpoint = load_file(next(workspace.glob(".work/*/step-*/weights.safetensors")))
    assert {name for name in checkpoint if ".lora_" not in name} == {"critic.score.weight", "kl_coefficient"}
    on_the_way, last = run(workspace, "evaluate@ppo", evaluate)["path"]
    assert (on_the_way["policy"], last["policy"]) == ("step-00000001", "policy")
    for judge in ("proxy", "referee"):
        assert (last["lead"][judge]["value"], last["lead"][judge]["high"], last["lead"]["gold"]) == (0, 0, None)
        ahead = last[judge]["value"] - on_the_way[judge]["value"]
        assert on_the_way["lead"][judge]["value"] == pytest.approx(ahead, rel=1e-3)
    names = ("base", "sft", "reward/helpful", "policy/ppo")
    base, taught, judge, policy = (load_file(workspace / f"models/{name}/model.safetensors") for name in names)
    assert base.keys() == taught.keys() == judge.keys() - {"score.weight"} == policy.keys()
    for before, after in ((base, taught), (taught, judge), (taught, policy)):
        assert {name for name in base if not torch.equal(before[name], after[name])} == {
            n for n in base if "_proj" in n
        }


def test_accuracy_where_the_shorter_answer_was_preferred_is_of_those_pairs_alone(workspace: Path) -> None:
    rows = [row for row in judgements() if row["criterion"] == "helpful"]
    unseen = [row | {"responses": ["one two one two", "one"]} for row in rows if row["split"] == "test"]
    shorter = [row | {"ranks": [2, 1]} for row in unseen[:3]]
    write(workspace, "rankings", [row for row in rows if row["split"] == "train"] + unseen[3:] + shorter)
    found = run(workspace, "reward@helpful", reward)
    assert (found["accuracy"]["pairs"], found["short_accuracy"]["pairs"]) == (4, 3)


def test_a_criterion_by_which_nobody_judged_is_named_with_those_that_there_are(workspace: Path) -> None:
    set_params(workspace / "params.yaml", ["reward.criteria={helpful: 1.0, funny: 1.0}"])
    with pytest.raises(DataError, match=r"Nobody judged by `funny`: .* were made by harmless, helpful\."):
        run(workspace, "reward@funny", reward)


def write(workspace: Path, table: str, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), workspace / "data/judgements" / f"{table}.parquet")


@pytest.fixture
def polled(workspace: Path) -> Path:
    """The rarer belief is preferred, and every prompt but two has a poll."""
    set_params(
        workspace / "params.yaml",
        ["align.algorithms=[gdpo_belief]", "reward.criteria={overall: 1.0}", "tokens.response=24"],
    )
    rows = [row | {"criterion": "overall", "responses": STATEMENTS[::-1]} for row in judgements()[:8]]
    write(workspace, "rankings", [row | {"ranks": [1, 2]} for row in rows])
    polls = [{"id": str(n), "statements": STATEMENTS, "votes": [3, 1], "group": ""} for n in range(len(rows))]
    polls = [poll | {name: row[name] for name in ("prompt", "split")} for poll, row in zip(polls, rows, strict=True)]
    write(workspace, "beliefs", [*polls[:2], *polls[4:]])
    return workspace


def test_beliefs_are_learned_and_measured(polled: Path) -> None:
    learned = run(polled, "align@gdpo_belief", align)
    assert (learned["polls"], learned["polled"]) == (2, 2)
    assert learned["calibration"] > 0
    assert learned["margin"] == pytest.approx(0.0, abs=1e-6), "given a belief both answers are the same"
    found = run(polled, "evaluate@gdpo_belief", evaluate)["beliefs"]
    assert found["stated"] == {"sft": 0.0, "policy": 0.0}, "the tiny model says nothing that makes sense"
    assert found["distance"] == {"sft": None, "policy": None}
    assert found["minority_margin"]["n"] == 4
    assert found["majority_margin"] is None


def test_nothing_that_aligns_reads_what_is_the_referees(polled: Path) -> None:
    """Its rows are such that whoever touches them fails, as the referee does."""
    set_params(polled / "params.yaml", ["align.algorithms=[dpo, ipo, kto, gdpo_belief]"])
    (polled / "reports/label.json").write_text(json.dumps({"criteria": {"overall": {"bayes_accuracy": None}}}))
    seen = pq.read_table(polled / "data/judgements/rankings.parquet").to_pylist()
    write(polled, "rankings", [*seen, *(row | {"split": "referee", "responses": [None, None]} for row in seen[:4])])
    thumbs = [
        {name: row[name] for name in ("prompt", "criterion", "split")} | {"response": answer, "thumb": answer == "one"}
        for row in seen
        for answer in PREFERRED.values()
    ]
    write(polled, "thumbs", [*thumbs, *(row | {"split": "referee", "response": None} for row in thumbs[:4])])
    assert run(polled, "reward@overall", reward)["prompts"] == 4
    for algorithm in ("dpo", "ipo", "kto", "gdpo_belief"):
        assert run(polled, f"align@{algorithm}", align)["steps"] == 1
    with pytest.raises(ValueError, match="text input"):
        run(polled, "referee", referee)


def test_a_half_without_judgements_is_told_by_the_parameter_that_deals_them(workspace: Path) -> None:
    rows = judgements()
    for split, (stage, program) in {"train": ("reward@helpful", reward), "referee": ("referee", referee)}.items():
        write(workspace, "rankings", [row for row in rows if row["split"] != split])
        with pytest.raises(DataError, match=r"label\.referee"):
            run(workspace, stage, program)
    with pytest.raises(ConfigError, match=r"`label\.referee` is 0\.0: input should be greater than 0"):
        set_params(workspace / "params.yaml", ["label.referee=0.0"])


def test_without_a_belief_that_an_answer_states_there_is_nothing_to_calibrate_to(polled: Path) -> None:
    rows = pq.read_table(polled / "data/judgements/beliefs.parquet").to_pylist()
    write(polled, "beliefs", [row | {"statements": ["two is red.", "two is blue."]} for row in rows])
    with pytest.raises(DataError, match="has 2 beliefs, none of which an answer that was ranked states"):
        run(polled, "align@gdpo_belief", align)


def test_rankings_of_ties_alone_are_an_error_and_no_accuracy_of_zero(polled: Path) -> None:
    rows = pq.read_table(polled / "data/judgements/rankings.parquet").to_pylist()
    write(polled, "rankings", [row | {"ranks": [1, 1]} for row in rows])
    with pytest.raises(DataError, match="could measure `accuracy`"):
        run(polled, "align@gdpo_belief", align)


def test_a_champion_of_another_vocabulary_answers_as_it_reads_and_is_measured_as_text(workspace: Path) -> None:
    for criterion in WEIGHTS:
        run(workspace, f"reward@{criterion}", reward)
    run(workspace, "referee", referee)
    run(workspace, "align@kto", align)
    tokenizer = train_tokenizer(["east west up down " * 5], 310)
    config = PARAMS.base.model.model_copy(update={"hidden_size": 24, "layers": 1, "heads": 2})
    place = workspace / FILES / "made"
    save_model(make_llama(config, tokenizer, 200, seed=5), tokenizer, place, title="tiny", summary="A test.")
    digest = write_manifest(place)
    place.rename(workspace / FILES / digest)
    pin(workspace, Pinned(1, digest))

    found = run(workspace, "evaluate@kto", evaluate)
    assert found["champion_digest"] == digest
    rows = pq.read_table(workspace / "reports/evaluate/kto/rows/rows.parquet").to_pydict()
    texts = [{"prompt": p, "response": r} for p, r in zip(rows["prompt"], rows["champion_response"], strict=True)]
    assert rows["champion_length"] == [len(turn.response) for turn in encode_turns(tiny_tokenizer(), texts)]
    points = win_points(np.array(rows["policy_reward"]), np.array(rows["champion_reward"]))
    assert rows["points_champion"] == points.tolist()
    assert found["champion_win_rate"]["value"] == pytest.approx(points.mean(), rel=1e-4)
    with forward_passes() as passes:
        run(workspace, "evaluate@kto", evaluate)
    assert passes == [], "what it answered is kept"


def test_a_server_and_people_judge_what_stands(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """evaluate with either judge: the answers are not sampled again, and all that was said is beside the rows."""
    set_params(workspace / "params.yaml", ["align.algorithms=[kto]", "reward.criteria={helpful: 1.0}"])
    run(workspace, "reward@helpful", reward)
    run(workspace, "align@kto", align)
    assert run(workspace, "evaluate@kto", evaluate)["judging"]["asked"] == "alone"
    rows = workspace / "reports/evaluate/kto/rows"

    with serving() as server:
        monkeypatch.setenv("JUDGE_KEY", KEY)
        settings = f"kind: endpoint, url: '{server.url}', model: wise, key: JUDGE_KEY, max_tokens: 9, timeout: 5.0"
        judge = f"evaluate.judge={{{settings}, retries: 1, wait: 0.01, parallel: 2, budget: 999}}"
        set_params(workspace / "params.yaml", [judge])
        with forward_passes() as passes:
            found = run(workspace, "evaluate@kto", evaluate)
        assert passes == []
        assert (found["judge"], found["judge_model"], found["judging"]["asked"]) == ("endpoint", "wise", "both orders")
        assert found["win_rate"]["value"] == 0.5
        assert found["judging"]["primacy"]["value"] == 0.5
        assert found["judging"]["consistency"]["value"] == 0.0
        assert found["judging"]["agreement"] == pytest.approx(
            {"value": 0.5, "low": 0.5, "high": 0.5, "n": 4, "pairs": 4}
        ), "one is better than two, people say; this judge says whatever stands first"
        said = [json.loads(line) for line in (rows / "verdicts.jsonl").read_text().splitlines()]
        assert {one["reply"] for one in said} == {"[[A]]"}
        assert not [path for path in workspace.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        asked = len(server.asked)
        set_params(workspace / "params.yaml", ["evaluate.judge.retries=2"])
        assert run(workspace, "evaluate@kto", evaluate) == found
        assert len(server.asked) == asked > 0

    people = "evaluate.judge={kind: people, verdicts: feedback/verdicts.jsonl, sha256: null}"
    set_params(workspace / "params.yaml", [people])
    table = pq.read_table(rows / "rows.parquet").to_pylist()
    differing = [row["policy_response"] != row["sft_response"] for row in table]
    found = run(workspace, "evaluate@kto", evaluate)
    assert found["judging"]["nulls"]["sft"] == {"count": sum(differing), "n": 4}
    tasks, file, store = (
        compared(between(table, "sft"), 0),
        workspace / "t.jsonl",
        workspace / "feedback/verdicts.jsonl",
    )
    write_tasks(file, tasks)
    file.write_text(file.read_text().replace('"winner": "", "annotator": ""', '"winner": "A", "annotator": "ann"'))
    add_verdicts(file, tasks, store)
    set_params(workspace / "params.yaml", [f"evaluate.judge.sha256='{sha256(store)}'"])
    found = run(workspace, "evaluate@kto", evaluate)
    assert found["judging"]["nulls"]["sft"]["count"] == 0
    assert found["judging"]["primacy"]["value"] == 0.5
    assert len((rows / "verdicts.jsonl").read_text().splitlines()) == len(tasks) == sum(differing) > 0
    store.write_text(store.read_text() + "\n")
    with pytest.raises(DataError, match=r"is not the file of verdicts that evaluate\.judge\.sha256"):
        run(workspace, "evaluate@kto", evaluate)
