"""Who judges at the end: a reward model, a server, people; and a champion of another vocabulary."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from rlhf.batching.encoding import encode_turns
from rlhf.config import load_config
from rlhf.config.editing import set_params
from rlhf.config.judges import JudgeConfig
from rlhf.data.ids import lot
from rlhf.errors import DataError
from rlhf.gate.statistics import win_points
from rlhf.judges.door import between
from rlhf.judges.people import add_verdicts, write_tasks
from rlhf.judges.people import tasks as compared
from rlhf.manifest import sha256, write_manifest
from rlhf.models.loading import save_model
from rlhf.models.small import train_tokenizer
from rlhf.pipeline.champion import Pinned, pin
from rlhf.tracking.champions import FILES
from tasks import align, evaluate, referee, reward
from tasks.evaluate import judge_digest
from tests.algorithms.tiny import tiny_tokenizer
from tests.conftest import ROOT
from tests.judgements.stages import WEIGHTS, forward_passes, run
from tests.judges.server import KEY, serving

ROTARY = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def crown(workspace: Path, config: PreTrainedConfig) -> str:
    """Make a champion with a tokenizer of its own; return the digest of its files."""
    tokenizer, place = train_tokenizer(["east west up down " * 5], 310), workspace / FILES / "made"
    config.vocab_size, config.eos_token_id, config.pad_token_id = len(tokenizer), tokenizer.eos_token_id, 0
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    save_model(model, tokenizer, place, title="tiny", summary="A test.")
    digest = write_manifest(place)
    place.rename(workspace / FILES / digest)
    pin(workspace, Pinned(1, digest))
    return digest


def test_a_champion_of_another_vocabulary_answers_as_it_reads_and_is_measured_as_text(workspace: Path) -> None:
    for criterion in WEIGHTS:
        run(workspace, f"reward@{criterion}", reward)
    run(workspace, "referee", referee)
    run(workspace, "align@kto", align)
    set_params(workspace / "params.yaml", ["tokens.prompt=6"])  # of SFT's; the champion's are 8
    crown(workspace, GPT2Config(n_embd=24, n_layer=1, n_head=2, n_positions=13))
    with pytest.raises(DataError, match=r"reads 13 tokens, and a prompt and its answer may have 8 \+ 6 of its"):
        run(workspace, "evaluate@kto", evaluate)
    digest = crown(workspace, LlamaConfig(**ROTARY, max_position_embeddings=13))
    found = run(workspace, "evaluate@kto", evaluate)
    assert found["champion_digest"] == digest
    rows = pq.read_table(workspace / "reports/evaluate/kto/rows/rows.parquet").to_pydict()
    texts = [{"prompt": p, "response": r} for p, r in zip(rows["prompt"], rows["champion_response"], strict=True)]
    lengths = [len(turn.response) for turn in encode_turns(tiny_tokenizer(), texts)]
    assert rows["champion_length"] == [length - 1 for length in lengths], "what did not end has no end-of-turn token"
    points = win_points(np.array(rows["policy_reward"]), np.array(rows["champion_reward"]))
    assert rows["points_champion"] == points.tolist()
    assert found["champion_win_rate"]["value"] == pytest.approx(points.mean(), rel=1e-4)
    with forward_passes() as passes:
        run(workspace, "evaluate@kto", evaluate)
    assert passes == [], "what it answered is kept"


def test_the_digest_of_a_judge_tells_what_it_is_and_not_how_it_is_asked() -> None:
    """Another look at the test set is paid for; more patience with a server, or more verdicts of people, is none."""
    server = {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "wise", "key": None, "max_tokens": 9}
    server |= {"max_bytes": 99, "timeout": 1.0, "retries": 1, "wait": 0.1, "parallel": 1, "missed": 4, "budget": 9}
    people = {"kind": "people", "verdicts": "verdicts.jsonl", "sha256": None}
    inputs = {"models/reward/a": "1", "models/reward/b": "2", "models/referee": "3"}
    weights, raw = {"criteria": {"a": 1.0, "b": 2.0}}, load_config(ROOT / "params.yaml").reward

    def digest(judge: dict[str, Any], reward: dict[str, Any] = weights, **changed: str) -> str:
        parsed = TypeAdapter(JudgeConfig).validate_python(judge)
        config = SimpleNamespace(evaluate=SimpleNamespace(judge=parsed), reward=raw.model_copy(update=reward))
        return judge_digest(SimpleNamespace(config=config, inputs=inputs | changed))

    scored, watched, known = ({"kind": kind} for kind in ("reward", "referee", "gold"))
    others = [
        *(digest(judge) for judge in (scored, watched, known, server, people, server | {"model": "wiser"})),
        digest(scored, {"criteria": {"a": 1.0, "b": 1.0}}),
        digest(scored, {"criteria": {"a": 1.0}}),
        digest(scored, **{"models/reward/b": "retrained"}),
        digest(watched, **{"models/referee": "retrained"}),
    ]
    assert len(set(others)) == len(others)
    assert digest(server | {"retries": 9, "budget": 99, "url": "http://localhost:2/v1"}) == digest(server)
    assert digest(people | {"sha256": 64 * "a"}) == digest(people)
    assert digest(known, {"criteria": {"a": 5.0}}, **{"models/referee": "retrained"}) == digest(known)


def test_a_server_and_people_judge_what_stands(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """evaluate with either judge: the answers are not sampled again, and all that was said is beside the rows."""
    set_params(workspace / "params.yaml", ["align.algorithms=[kto]", "reward.criteria={helpful: 1.0}"])
    run(workspace, "reward@helpful", reward)
    run(workspace, "align@kto", align)
    assert run(workspace, "evaluate@kto", evaluate)["judging"]["asked"] == "alone"
    rows = workspace / "reports/evaluate/kto/rows"

    with serving() as server:
        monkeypatch.setenv("JUDGE_KEY", KEY)
        settings = f"kind: endpoint, url: '{server.url}', model: wise, key: JUDGE_KEY, max_tokens: 9, max_bytes: 9999"
        judge = (
            f"evaluate.judge={{{settings}, timeout: 5.0, retries: 1, wait: 0.01, parallel: 2, missed: 4, budget: 999}}"
        )
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
    drawn = [lot(row["prompt_id"], "evaluate") for row in table]
    assert drawn == sorted(drawn), "no order of ids, which are hashes that splits go by"
    differing = [row["policy_response"] != row["sft_response"] for row in table]
    found = run(workspace, "evaluate@kto", evaluate)
    assert found["judging"]["nulls"]["sft"] == {"count": sum(differing), "n": 4}
    tasks, file, store = (
        compared(between(table, "sft")),
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
