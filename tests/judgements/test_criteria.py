"""Criteria and adapters through the stages that train."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from rlhf.config.editing import set_params
from rlhf.errors import ConfigError, DataError
from rlhf.manifest import sha256, write_manifest
from rlhf.models.loading import load_policy, save_model
from rlhf.tracking.lineage import lineage
from tasks import align, evaluate, referee, reward, sft
from tests.algorithms.tiny import LORA, tiny_policy, tiny_tokenizer
from tests.judgements.stages import WEIGHTS, forward_passes, judgements, run, write


def test_every_criterion_has_a_reward_model_and_its_part_in_what_is_learned(workspace: Path) -> None:
    for criterion in WEIGHTS:
        metrics = run(workspace, f"reward@{criterion}", reward)
        assert (metrics["prompts"], metrics["accuracy"]["pairs"], metrics["bayes_accuracy"]) == (4, 4, 0.9)
        assert metrics["accuracy"]["n"] == 4

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
    set_params(workspace / "params.yaml", ["gate.bootstrap=120"])
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
    base, taught, scoring, policy = (load_file(workspace / f"models/{name}/model.safetensors") for name in names)
    assert base.keys() == taught.keys() == scoring.keys() - {"score.weight"} == policy.keys()
    for before, after in ((base, taught), (taught, scoring), (taught, policy)):
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


def test_a_half_without_judgements_is_told_by_the_parameter_that_deals_them(workspace: Path) -> None:
    rows = judgements()
    for split, (stage, program) in {"train": ("reward@helpful", reward), "referee": ("referee", referee)}.items():
        write(workspace, "rankings", [row for row in rows if row["split"] != split])
        with pytest.raises(DataError, match=r"label\.referee"):
            run(workspace, stage, program)
    with pytest.raises(ConfigError, match=r"`label\.referee` is 0\.0: input should be greater than 0"):
        set_params(workspace / "params.yaml", ["label.referee=0.0"])
