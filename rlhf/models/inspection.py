"""What a model directory of others may not hold: code, pickles, pointers elsewhere. It is looked through before any
library opens it, since configurations and tokenizers steer what libraries load.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rlhf.errors import DataError

# Keys of a configuration, at any depth, that have a library fetch or run something else than the weights beside it.
FORBIDDEN = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_generate",
        "custom_pipelines",
        "quantization_config",
        "kernel_config",
        "use_kernels",
        "base_model_name_or_path",
        "use_pretrained_backbone",
        "use_timm_backbone",
    }
)
IMPLEMENTATIONS = (None, "eager", "sdpa")  # of attention and the like: transformers' own
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
TEMPLATE = 100_000  # characters of a chat template; long ones have a tenth of that
_JSON = 100 << 20  # bytes of a configuration or of a tokenizer


def inspect(directory: Path) -> None:
    """Raises DataError, which names the file, for a directory that holds a pickle or an adapter, that sets a forbidden
    key, or whose weights are no safetensors."""
    if not directory.is_dir():
        raise DataError(f"{directory} is no directory. Name one that transformers saved")
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with open(file, "rb") as opened:
            head = opened.read(4)
        if (
            file.suffix in PICKLED
            or head == b"PK\x03\x04"
            or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05")
        ):
            raise DataError(
                f"{file} may be a pickle, which runs code when it is opened. Remove it; nothing here reads it"
            )
        if file.name == "adapter_config.json":
            raise DataError(
                f"{directory} is an adapter of another model. Merge it into that model, and name the result"
            )
        if file.name.endswith("config.json"):
            _refuse_keys(file, _read(file))
        if file.name == "tokenizer.json":  # whose keys are words
            _read(file)
        if file.name.endswith(".index.json"):
            _refuse_elsewhere(file)
    dtypes(directory)


def dtypes(directory: Path) -> dict[str, str]:
    """The type of every tensor in the directory's safetensors. Raises DataError for a file whose header is none."""
    found = dict[str, str]()
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is not safetensors: {error}. Save the model again") from None
    return found


def _read(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _JSON:
        raise DataError(f"{file} is larger than {_JSON:,} bytes. Save the model again")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f"{file} holds no JSON object. Save the model again")
    return value


def _refuse_keys(file: Path, value: dict[str, Any]) -> None:
    for key, inner in _pairs(value):
        if key in FORBIDDEN and inner not in (None, False):
            raise DataError(
                f"{file} sets `{key}`, by which a model runs or loads what is not in its weights. Remove it"
            )
        if "_implementation" in key and inner not in IMPLEMENTATIONS:
            raise DataError(f"{file} sets `{key}` to {str(inner)[:80]!r}, which may be code. Remove it")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
        waiting.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def _refuse_elsewhere(file: Path) -> None:
    """Raises DataError for an index of weights that names a file which is not beside it."""
    names = _read(file).get("weight_map")
    for name in names.values() if isinstance(names, dict) else [names]:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise DataError(f"{file} names {str(name)[:80]!r}, which is no safetensors file beside it")
