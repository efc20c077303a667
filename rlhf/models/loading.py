"""Load and save model directories: safetensors, tokenizer and chat template; never pickle, never a model's own code."""

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging

from rlhf.errors import ConfigError, DataError, first_line
from rlhf.models import inspection
from rlhf.models.kernels import prepare
from rlhf.models.lora import stored_weights, text_body
from rlhf.models.machine import on_gpu
from rlhf.models.processes import leads

# Heads that these multiply or squash are read as plain linear heads in scoring.py, which would be wrong for them.
_UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a model of the hub, that are fetched


def load_tokenizer(path: Path | str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub id. Raises DataError when it or its chat template is missing."""
    directory = _directory(path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise DataError(
            f"{path} has no tokenizer that can be loaded ({first_line(error)}). Save it beside the model"
        ) from None
    if not tokenizer.chat_template:
        raise DataError(f"The tokenizer of {path} has no chat template. Set tokenizer.chat_template and save it again")
    if len(str(tokenizer.chat_template)) > inspection.TEMPLATE:
        raise DataError(
            f"The chat template of {path} has more than {inspection.TEMPLATE:,} characters. Take a shorter one"
        )
    if tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer of {path} has no end-of-turn token (eos_token). Set one and save it again")
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
    model = _load(AutoModelForSequenceClassification, policy_path, None, {"score.weight"}, num_labels=1)
    generator = torch.Generator().manual_seed(seed)
    head = cast(nn.Linear, model.score)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, head.in_features, generator=generator) / (head.in_features + 1) ** 0.5)
    return model


def _directory(path: Path | str, revision: str | None) -> Path:
    """The directory itself, or what the hub has at a commit under that id; looked through. Raises DataError."""
    directory = Path(path)
    if revision is not None:
        try:
            directory = Path(
                snapshot_download(str(path), revision=revision, allow_patterns=_FILES, ignore_patterns=["*/*"])
            )
        except (OSError, ValueError) as error:
            raise DataError(f"{path} at {revision} cannot be fetched from the hub: {first_line(error)}") from None
    inspection.inspect(directory)
    return directory


def _load(
    kind: type[_BaseAutoModelClass],
    path: Path | str,
    revision: str | None,
    fresh: Collection[str] = (),
    **options: int,
) -> PreTrainedModel:
    """`fresh`: tensors that the directory lacks, to be drawn by the caller; a policy's head may then be left over."""
    directory = _directory(path, revision)
    logging.set_verbosity_error()  # a new head is reported as a fault, and every load has a progress bar
    logging.disable_progress_bar()
    try:
        model, loading = kind.from_pretrained(
            str(directory),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, StrictDataclassError) as error:
        raise DataError(f"{path} is not a model that can be loaded: {first_line(error)}") from None
    _refuse_weights(directory, model, loading, fresh)
    text = model.config.get_text_config()
    wrong = [name for name in _UNSUPPORTED_HEADS if getattr(text, name, None) not in (None, 1.0)]
    if wrong:
        raise DataError(f"{path} uses {', '.join(wrong)}, which scoring here does not apply. Choose a model without it")
    if text is not model.config:  # nothing here reaches what reads pictures or sounds, so nothing of it learns
        model.requires_grad_(False)
        for learns in (text_body(model), model.get_output_embeddings() or model.score):
            learns.requires_grad_(True)
    return prepare(model.to(device()).eval())


def _refuse_weights(
    directory: Path, model: PreTrainedModel, loading: dict[str, Collection[str]], fresh: Collection[str]
) -> None:
    """Raises DataError when the weights are not those of the architecture, of another type, or not all finite."""
    faults = {
        "lacks": set(loading["missing_keys"]) - set(fresh),
        "also holds": {name for name in loading["unexpected_keys"] if not (fresh and name.startswith("lm_head"))},
    }
    stored, weights = inspection.dtypes(directory), dict(model.named_parameters())
    faults["holds no real numbers in"] = {n for n in weights if stored.get(n, "F32") not in inspection.FLOATS}
    faults["holds NaN or infinity in"] = {n for n, weight in weights.items() if not bool(torch.isfinite(weight).all())}
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise DataError(f"{directory} is not a model that can be loaded: it {fault} {min(names)}{more}")


def require_fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path | str, *, prompt: int, response: int
) -> None:
    """Raises DataError where a model has no embedding for a token of its tokenizer, or reads fewer tokens than the
    longest prompt and response together."""
    rows, longest = len(cast(nn.Embedding, model.get_input_embeddings()).weight), max(tokenizer.get_vocab().values())
    if longest >= rows:
        raise DataError(
            f"The tokenizer of {path} has tokens up to id {longest}, and its model embeddings for {rows}. Save the two "
            "that belong together"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt + response > context:
        raise DataError(
            f"{path} reads {context} tokens, and a prompt and its answer may have {prompt} + {response} of its tokens. "
            "Lower tokens.prompt and tokens.response of params.yaml, or choose another model"
        )
    for kind, reach in _changing_positions(model.config.get_text_config()):
        if prompt + response > reach:
            raise DataError(
                f"{path} has positions of type {kind}: in a batch with a row of more than {reach} tokens it reads all "
                f"rows otherwise, and a prompt and its answer may have {prompt} + {response}. Lower tokens.prompt and "
                "tokens.response of params.yaml to that"
            )


def _changing_positions(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """Rotary positions of a model that depend on the longest row of a batch, and up to how many tokens none does."""
    found = getattr(config, "rope_parameters", None) or {}
    for rope in [found] if "rope_type" in found else found.values():
        if (kind := rope.get("rope_type")) in ("longrope", "dynamic"):
            original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            yield kind, int(original)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, title: str, summary: str
) -> None:
    """Write weights (safetensors), configuration, tokenizer, chat template and model card into `path`.

    What an adapter has learned is written into the weights it stands beside: who reads the model needs no adapter. Who
    decodes with it does so as it was trained: a penalty, or a second token that ends, that its base had is left out. Of
    several processes the first writes.
    """
    if not leads():
        return
    logging.disable_progress_bar()
    if model.can_generate():
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
    model.save_pretrained(path, state_dict=stored_weights(model), safe_serialization=True)
    tokenizer.save_pretrained(path)
    header = json.dumps({"library_name": "transformers", "tags": ["rlhf-pipeline"]})
    (path / "README.md").write_text(f"---\n{header}\n---\n# {title}\n\n{summary}\n\nreceipt.json says what made it.\n")


def device() -> torch.device:
    """The GPU if there is one to be used, of several processes each its own; else the CPU.

    Raises ConfigError where there ought to be one.
    """
    if on_gpu():
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
        return own
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named not in ("", "-1") and not torch.cuda.is_available():
        raise ConfigError(
            f"GPU {named} is to be used (CUDA_VISIBLE_DEVICES), but torch {torch.__version__} finds none. Install its "
            "build for CUDA and a driver, or set CUDA_VISIBLE_DEVICES to nothing, to compute on the CPU"
        )
    return torch.device("cpu")
