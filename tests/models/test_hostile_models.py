"""Model directories of others: pickles, code, pointers elsewhere, wrong weights are refused by name; nothing runs."""

import json
import pickle
import shutil
import socket
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.config.editing import set_params
from rlhf.errors import ConfigError, DataError
from rlhf.models.loading import (
    load_policy,
    load_reward_model,
    load_tokenizer,
    require_fit,
    save_model,
)
from rlhf.pipeline.events import Events
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.stage import Stage
from tasks import base, sft
from tests.algorithms.tiny import tiny_policy, tiny_tokenizer
from tests.canary import Canary
from tests.conftest import ROOT, copy_pipeline, run_here


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "model"
    save_model(tiny_policy(), tiny_tokenizer(), path, title="Tiny", summary="Random weights.")
    return path


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("load", [load_policy, load_tokenizer])
@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *product(
            [
                "model.safetensors",
                "config.json",
                "training_args.bin",
                "pytorch_model.bin",
                "optimizer.pt",
                "rng_state.pth",
                "vectors.npy",
            ],
            [0, 2, 4, "torch"],
        ),
        *product(["deeper/notes.txt"], [2, 4, "torch"]),  # protocol 0 is plain text
    ],
)
def test_a_pickle_is_refused_by_name_and_never_opened(saved: Path, name: str, protocol: Any, load: Any) -> None:
    canary, file = saved.parent / "canary", saved / name
    file.parent.mkdir(exist_ok=True)
    if protocol == "torch":
        torch.save(Canary(canary), file)
    else:
        file.write_bytes(pickle.dumps(Canary(canary), protocol))
    with pytest.raises(DataError, match=file.name):
        load(saved)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "owner/name--evil.Model"}}}, "auto_map"),
        ("config.json", {"parts": [{"trust_remote_code": True}]}, "trust_remote_code"),
        ("config.json", {"_attn_implementation": "owner/kernel"}, "_attn_implementation"),
        ("config.json", {"_attn_implementation_internal": "owner/kernel"}, "_attn_implementation_internal"),
        ("config.json", {"text_config": {"attn_implementation": "owner/kernel"}}, "attn_implementation"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("generation_config.json", {"custom_generate": "owner/name"}, "custom_generate"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "auto_map"),
    ],
)
def test_a_configuration_that_runs_code_is_refused_by_its_key(
    saved: Path, file: str, changes: dict[str, Any], key: str
) -> None:
    canary = saved.parent / "canary"
    (saved / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    edit(saved / file, **changes)
    for load in (load_policy, load_tokenizer):
        with pytest.raises(DataError, match=rf"{file} sets `{key}`"):
            load(saved)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "wide"}, "not a model that can be loaded"),
        ({"hidden_size": 32}, "not a model that can be loaded"),
        ({"num_hidden_layers": 3}, r"lacks model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"also holds model\.layers\.1"),
        ({"model_type": "owner/name"}, "not a model that can be loaded"),
    ],
)
def test_a_configuration_of_another_model_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved / "config.json", **changes)
    with pytest.raises(DataError, match=message):
        load_policy(saved)


def test_an_adapter_points_to_another_model(saved: Path) -> None:
    (saved / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    with pytest.raises(DataError, match="is an adapter of another model"):
        load_policy(saved)


def test_an_index_that_names_a_file_elsewhere_is_refused(saved: Path) -> None:
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "../model.bin"}}))
    with pytest.raises(DataError, match=r"index\.json names '\.\./model\.bin'"):
        load_policy(saved)


def header(length: int, text: bytes, values: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + text + values


ONE = b'{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        header(2**62, b"{}"),
        header(2**30, b"{}"),
        header(2, b"{}")[:-1],
        header(6, b'{"a":1'),
        header(len(ONE) * 2 + 11, b'{"a":' + ONE + b',"b":' + ONE + b"}", b"\x00" * 4),
        header(len(ONE) + 6, b'{"a":' + ONE + b"}", b"\x00" * 3),
        header(len(ONE) + 6, b'{"a":' + ONE.replace(b"[1]", b"[9]") + b"}", b"\x00" * 4),
        header(len(ONE) + 6, b'{"a":' + ONE + b"}", b"\x00" * 400),
    ],
)
def test_damaged_safetensors_are_refused_by_name(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is not safetensors"):
        load_policy(saved)


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(NAME), f"lacks {NAME}"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "also holds extra"),
        (lambda weights: weights.update({NAME: weights[NAME].to(torch.int8)}), f"no real numbers in {NAME}"),
        (lambda weights: weights.update({NAME: weights[NAME].T.contiguous()}), "not a model that can be loaded"),
        (lambda weights: weights[NAME][3].fill_(float("nan")), f"NaN or infinity in {NAME}"),
        (lambda weights: weights[NAME][3].fill_(float("inf")), f"NaN or infinity in {NAME}"),
    ],
)
def test_wrong_weights_are_refused_by_name(saved: Path, change: Any, message: str) -> None:
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=message):
        load_policy(saved)


def test_a_policy_is_no_reward_model(saved: Path) -> None:
    with pytest.raises(DataError, match=r"lacks score\.weight"):
        load_reward_model(saved)


def test_a_long_chat_template_is_refused(saved: Path) -> None:
    (saved / "chat_template.jinja").write_text("{{ 1 }}" * 20_000)
    with pytest.raises(DataError, match="more than 100,000 characters"):
        load_tokenizer(saved)


DEPS = "deps: [data/clean/texts.parquet, data/clean/demonstrations.parquet] # so"  # of the stage base


@pytest.fixture
def taking(saved: Path, tmp_path: Path) -> Path:
    """A workspace whose base model is the saved one."""
    copy_pipeline(tmp_path)
    model, lengths = f"base.model={{kind: directory, path: {saved}}}", "tokens={prompt: 40, response: 24}"
    set_params(tmp_path / "params.yaml", [model, lengths])
    graph = (tmp_path / "dvc.yaml").read_text()
    assert graph.count(DEPS) == 1
    (tmp_path / "dvc.yaml").write_text(graph.replace(DEPS, DEPS.replace("]", ", '${base.model.path}']")))
    (tmp_path / "data/clean").mkdir(parents=True)
    for table in ("texts", "demonstrations"):
        (tmp_path / f"data/clean/{table}.parquet").touch()
    return tmp_path


def test_a_directory_that_dvc_does_not_watch_is_refused(taking: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", taking)
    with pytest.raises(
        ConfigError, match=r'does not declare .*model.*`deps` of the stage base, in quotes: "\$\{base\.model\.path\}"'
    ):
        run_here(taking, "base", base)


def test_other_weights_in_its_place_are_another_input(taking: Path) -> None:
    saved = str(taking / "model")
    before = Stage(load_graph(taking).stages["base"], taking, "", Events("base"))
    (taking / "model/generation_config.json").unlink()
    after = Stage(load_graph(taking).stages["base"], taking, "", Events("base"))
    assert before.inputs[saved] != after.inputs[saved]
    assert before.key != after.key


@pytest.mark.parametrize(
    ("template", "seconds", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", 0.5, "more than 0.5 s"),
        ("{{ 9 ** (9 ** 9) > messages | length }}", 0.5, "more than 0.5 s"),
        ("{{ 'a' * 10 ** 10 }}", 20, "MemoryError"),
        ("{{ 'a' * 10 ** 6 }}", 20, "more than 100,000 characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", 20, "RecursionError"),
    ],
)
def test_a_chat_template_that_runs_away_is_not_taken(
    taking: Path, template: str, seconds: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.models.template.SECONDS", seconds)
    (taking / "model/chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=rf"chat template of {taking}/model does not render .*{message}"):
        run_here(taking, "base", base)
    assert not (taking / "models/base").exists()


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026"),
        (
            '{% set day = strftime_now( "%Y-%m-%d %H:%M" ) if strftime_now is defined %}{{ day }}',
            "2026-01-01 00:00",
        ),
    ],
)
def test_a_prompt_has_the_same_tokens_tomorrow(taking: Path, asks: str, told: str) -> None:
    template = taking / "model/chat_template.jinja"
    template.write_text(asks + template.read_text())
    run_here(taking, "base", base)
    tokenizer, asked = load_tokenizer(taking / "models/base"), [{"role": "user", "content": "red"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == f"{told}<|user|>red<|end|>"


def test_a_date_that_cannot_be_fixed_is_refused(taking: Path) -> None:
    (taking / "model/chat_template.jinja").write_text("{% set format = '%d' %}{{ strftime_now(format) }}")
    with pytest.raises(DataError, match="asks for the date in no fixed format"):
        run_here(taking, "base", base)


def test_a_policy_decodes_as_it_was_trained(taking: Path) -> None:
    """Whatever its base came with."""
    edit(taking / "model/generation_config.json", repetition_penalty=1.3, eos_token_id=[1, 7], top_p=0.5)
    run_here(taking, "base", base)
    kept = load_policy(taking / "models/base").generation_config.to_diff_dict()
    own = load_policy(taking / "models/base").config
    assert kept.keys() <= {"eos_token_id", "pad_token_id", "transformers_version"}
    assert kept["eos_token_id"] == own.eos_token_id


def test_a_tokenizer_or_lengths_that_are_too_much_for_a_model_are_told_before_anything_is_trained() -> None:
    policy, tokenizer = tiny_policy(), tiny_tokenizer()
    require_fit(policy, tokenizer, "here", prompt=40, response=24)
    with pytest.raises(DataError, match=r"here reads 64 tokens, and a prompt and its answer may have 40 \+ 25"):
        require_fit(policy, tokenizer, "here", prompt=40, response=25)
    policy.resize_token_embeddings(len(tokenizer) - 1)
    with pytest.raises(DataError, match=f"tokens up to id {len(tokenizer) - 1}, and its model embeddings for"):
        require_fit(policy, tokenizer, "here", prompt=40, response=24)


def test_the_chat_template_that_was_taken_is_the_one_that_later_stages_verify(taking: Path) -> None:
    run_here(taking, "base", base)
    taken = taking / "models/base/chat_template.jinja"
    assert taken.read_bytes() == (taking / "model/chat_template.jinja").read_bytes()
    taken.write_text("{{ 'another' }}")
    with pytest.raises(DataError, match=r"models/base/chat_template\.jinja"):
        run_here(taking, "sft", sft)


def test_a_directory_that_is_not_there_is_not_sought_on_the_hub(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(DataError, match="owner/name is no directory"):
        load_policy("owner/name")
    assert load_tokenizer(saved)
    assert load_policy(saved)


def test_a_model_of_the_hub_is_looked_through_too(monkeypatch: pytest.MonkeyPatch, saved: Path, tmp_path: Path) -> None:
    """A cache of the hub, as a download leaves it."""
    commit = "0123456789" * 4
    snapshot = shutil.copytree(saved, tmp_path / "hub/models--owner--name/snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_policy("owner/name", commit)
    edit(snapshot / "config.json", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(DataError, match=r"config\.json sets `auto_map`"):
        load_policy("owner/name", commit)
    with pytest.raises(DataError, match=r"owner/other at 0.* cannot be fetched from the hub"):
        load_policy("owner/other", commit)


@pytest.mark.parametrize("content", [b"{", b"[]", b"5", b"\xff", b'{"a":' * 10_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_damaged_file_is_named(saved: Path, name: str, content: bytes) -> None:
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} holds no JSON object"):
        load_tokenizer(saved)
