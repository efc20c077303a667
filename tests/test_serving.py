"""A served policy answers as it was evaluated; what only our own code could load is not served."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.batching.encoding import encode_prompts
from rlhf.evaluation.serving import files, greedy
from rlhf.models.loading import save_model
from rlhf.serving import serve_probe
from tests.algorithms.tiny import WORDS, talkative_policy, tiny_policy, tiny_tokenizer

PROMPTS = [[{"role": "user", "content": f"{one} {other}"}] for one in WORDS[:4] for other in WORDS[:2]]
CODE = "from pathlib import Path\nPath({!r}).touch()\nclass Mine: ...\n"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(talkative_policy(0), tiny_tokenizer(), tmp_path / "model", title="Tiny", summary="Random weights.")
    return tmp_path / "model"


def test_the_served_policy_says_what_the_evaluated_one_says(saved: Path) -> None:
    probe = serve_probe(saved, PROMPTS, max_tokens=12, rounds=2, timeout=120)
    assert (probe.served, probe.reason) == (True, "")
    ids = [row.tolist() for row in encode_prompts(tiny_tokenizer(), PROMPTS)]
    said = [greedy(talkative_policy(n), ids, max_tokens=12, eos=tiny_tokenizer().eos_token_id) for n in (0, 1)]
    assert len({tuple(answer) for answer in probe.answers}) > 1
    assert [probe.agreeing(answers) for answers in said] == [len(PROMPTS), 0]
    cost = probe.cost
    assert cost is not None
    assert 0 < cost.latency_p50 <= cost.latency_p95 < 60
    assert cost.tokens_per_second > 0
    assert 2**26 < cost.peak_memory < 2**32


def test_pickles_and_code_are_neither_served_nor_run(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({"canary": 1}, saved / "pytorch_model.bin")
    (saved / "mine.py").write_text(CODE.format(str(tmp_path / "canary")))
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "mine.Mine"}}))
    probe = serve_probe(saved, PROMPTS, max_tokens=12, rounds=1, timeout=120)
    assert (probe.served, probe.cost, list(probe.answers)) == (False, None, [])
    assert probe.agreeing([[1], [2]]) == 0
    assert "safetensors" in probe.reason
    assert not (tmp_path / "canary").exists()


def test_what_a_policys_directory_may_hold(saved: Path, tmp_path: Path) -> None:
    save_model(tiny_policy(1), tiny_tokenizer(), tmp_path / "sft", title="Tiny", summary="Others.")
    assert files(saved, tmp_path / "sft") == {"foreign": [], "code": [], "same_template": True}
    for name in ("pytorch_model.bin", "optimizer.pt", "mine.py", "old/model.safetensors"):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).touch()
    config = json.loads((saved / "tokenizer_config.json").read_text())
    (saved / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": "mine.Mine"}}))
    (saved / "chat_template.jinja").write_text((saved / "chat_template.jinja").read_text() + " ")
    assert files(saved, tmp_path / "sft") == {
        "foreign": ["mine.py", "old/model.safetensors", "optimizer.pt", "pytorch_model.bin"],
        "code": ["tokenizer_config.json"],
        "same_template": False,
    }


def test_memory_of_whoever_started_a_process_is_not_its_own() -> None:
    started = [sys.executable, "-c", "from rlhf.serving import peak_memory; print(peak_memory())"]
    starts = f"import subprocess; held = b'x' * 2**28; subprocess.run({started!r}, check=True)"
    said = subprocess.run([sys.executable, "-c", starts], capture_output=True, text=True, check=True).stdout
    assert 2**22 < int(said) < 2**27
