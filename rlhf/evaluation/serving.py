"""The policy's directory as those who serve it find it: its files, and whether it answers there as it was evaluated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlhf.rollouts.sampling import sample
from rlhf.serving import Messages, Probe, serve_probe

CONFIGURATIONS = ("config.json", "generation_config.json", "tokenizer_config.json")
TEXTS = {
    *CONFIGURATIONS,
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("chat_template.jinja", "model.safetensors.index.json", "README.md", "receipt.json", "MANIFEST.json"),
}


def files(policy: Path, reference: Path) -> dict[str, Any]:
    """What stands in a policy's directory: `foreign`, files that are neither weights in safetensors nor one of TEXTS;
    `code`, configurations that name code of their own to run; `same_template`, whether the chat template is that of
    the model in `reference` byte for byte."""
    names = [path.relative_to(policy).as_posix() for path in sorted(policy.rglob("*")) if not path.is_dir()]
    weights = {name for name in names if "/" not in name and name.endswith(".safetensors")}
    return {
        "foreign": [name for name in names if name not in weights | TEXTS],
        "code": [name for name in CONFIGURATIONS if name in names and "auto_map" in _read(policy / name)],
        "same_template": _templates(policy) == _templates(reference),
    }


def serving(
    directory: Path,
    champion: Path | None,
    prompts: Sequence[Messages],
    answers: Sequence[list[int]],
    *,
    max_tokens: int,
    rounds: int,
    timeout: float,
) -> dict[str, Any]:
    """What came of serving the policy in `directory`, and in the same way the champion.

    `same` counts the prompts to which the server gave the one of `answers`, the tokens of the policy evaluated here.
    """
    serve = partial(serve_probe, prompts=prompts, max_tokens=max_tokens, rounds=rounds, timeout=timeout)
    probe = serve(directory)
    return _said(probe) | {
        "prompts": len(prompts),
        "same": probe.agreeing(answers),
        "champion": _said(serve(champion)) if champion else None,
    }


def greedy(policy: PreTrainedModel, prompts: Sequence[list[int]], *, max_tokens: int, eos: int) -> list[list[int]]:
    """The tokens that the policy gives here to each of the prompts (ids), the end-of-turn token included."""
    said = sample(policy, prompts, max_tokens=max_tokens, temperature=0.0, eos=eos, batch_size=len(prompts), seed=0)
    return [one.response for one in said]


def _said(probe: Probe) -> dict[str, Any]:
    return {"served": probe.served, "reason": probe.reason, "cost": asdict(probe.cost) if probe.cost else None}


def _templates(directory: Path) -> list[Any]:
    """The chat template in each of the places where a tokenizer looks for it."""
    file = directory / "chat_template.jinja"
    return [
        file.read_bytes() if file.is_file() else None,
        _read(directory / "tokenizer_config.json").get("chat_template"),
    ]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
