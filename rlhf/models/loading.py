"""Load and save model directories: safetensors, tokenizer and chat template; never pickle, never a model's own code."""

import json
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging

from rlhf.errors import DataError
from rlhf.models.kernels import prepare
from rlhf.models.lora import merged_weights

# Heads that these multiply or squash are read as plain linear heads in scoring.py, which would be wrong for them.
_UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def load_tokenizer(path: Path | str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub id. Raises DataError when it or its chat template is missing."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"{path} has no tokenizer that can be loaded ({_first_line(error)}). Save it beside the model."
        ) from None
    if not tokenizer.chat_template:
        raise DataError(f"The tokenizer of {path} has no chat template. Set tokenizer.chat_template and save it again.")
    if tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer of {path} has no end-of-turn token (eos_token). Set one and save it again.")
    return tokenizer


def load_policy(path: Path | str, revision: str | None = None) -> PreTrainedModel:
    """A causal language model in fp32 on the accelerator, in evaluation mode: nothing drops out. Raises DataError."""
    return _load(AutoModelForCausalLM, path, revision)


def load_reward_model(path: Path | str) -> PreTrainedModel:
    """A model with one scalar head, `score`, over hidden states: a reward model or a critic. Raises DataError."""
    return _load(AutoModelForSequenceClassification, path, None, num_labels=1)


def scalar_model_from(policy_path: Path, seed: int) -> PreTrainedModel:
    """A reward model that starts from a policy's body.

    The head is drawn from N(0, 1 / (d + 1)), as Stiennon et al. 2020 do, so that first rewards are small.
    """
    model = _load(AutoModelForSequenceClassification, policy_path, None, num_labels=1)
    generator = torch.Generator().manual_seed(seed)
    head = cast(nn.Linear, model.score)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, head.in_features, generator=generator) / (head.in_features + 1) ** 0.5)
    return model


def _load(kind: type[_BaseAutoModelClass], path: Path | str, revision: str | None, **options: int) -> PreTrainedModel:
    logging.set_verbosity_error()  # a new head is reported as a fault, and every load has a progress bar
    logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(
            str(path), revision=revision, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} is not a model that can be loaded: {_first_line(error)}") from None
    wrong = [name for name in _UNSUPPORTED_HEADS if getattr(model.config, name, None) not in (None, 1.0)]
    if wrong:
        raise DataError(
            f"{path} uses {', '.join(wrong)}, which scoring here does not apply. Choose a model without it."
        )
    return prepare(model.to(device()).eval())


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, title: str, summary: str
) -> None:
    """Write weights (safetensors), configuration, tokenizer, chat template and model card into `path`.

    What an adapter has learned is written into the weights it stands beside: who reads the model needs no adapter.
    """
    logging.disable_progress_bar()
    model.save_pretrained(path, state_dict=merged_weights(model), safe_serialization=True)
    tokenizer.save_pretrained(path)
    header = json.dumps({"library_name": "transformers", "tags": ["rlhf-pipeline"]})
    (path / "README.md").write_text(f"---\n{header}\n---\n# {title}\n\n{summary}\n\nreceipt.json says what made it.\n")


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
