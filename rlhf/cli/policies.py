"""The policy that a command names, and its files, loaded."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.errors import DataError
from rlhf.manifest import MANIFEST, verified

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAMES = "champion, base, sft, an algorithm (dpo), a registered version (policy/3), a directory."  # for help


def find_policy(workspace: Path, name: str) -> Path:
    """The directory of a model: one that was named, one of the workspace, or a registered one. Raises DataError."""
    for directory in (Path(name), workspace / "models" / name, workspace / "models" / "policy" / name):
        if (directory / "config.json").is_file():
            if (directory / MANIFEST).exists():  # a model from elsewhere has none
                verified(directory)
            return directory
    if name == "champion":
        return _champion(workspace)
    from rlhf.tracking.registry import resolve

    return resolve(workspace, name)


def load(directory: Path) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    """What answers. Raises DataError, also for a reward model."""
    from rlhf.models.loading import load_policy, load_tokenizer

    tokenizer = load_tokenizer(directory)  # which has looked through config.json
    architectures = json.loads((directory / "config.json").read_bytes()).get("architectures")
    if "SequenceClassification" in str(architectures):
        raise DataError("A reward model gives scores and cannot answer. Name a policy: champion, sft, dpo")
    return tokenizer, load_policy(directory)


def _champion(workspace: Path) -> Path:
    """The champion's files: those that were evaluated."""
    from rlhf.gate.ledger import Ledger
    from rlhf.pipeline.champion import champion_files

    champion = Ledger.of(workspace).current()
    if champion is None:
        raise DataError(f"{workspace} has no champion yet. Name another model (sft), or make one: rlhf promote")
    return champion_files(workspace, champion.policy)
