"""What is chosen from the machine: threads, precision, and the kernels of large products.

    OMP_NUM_THREADS     threads of a process on a CPU; torch takes the cores that there are
    RLHF_PRECISION      fp32 or bf16 (autocast over weights in fp32); bf16 on a GPU, fp32 on a CPU
    RLHF_PRODUCTS       onednn or torch, of fp32 on a CPU; oneDNN where the processor is AMD's

A variable of the environment takes the place of the choice. Each may change the last bits of what is computed.
"""

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rlhf.errors import ConfigError


def on_gpu() -> bool:
    """Whether models are on a GPU: there is one, and no configuration of accelerate says that the CPU is to be used."""
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"


def autocasts() -> bool:
    """Whether models learn under bf16 autocast. Raises ConfigError for a name that means nothing."""
    return _chosen("RLHF_PRECISION", {"bf16": True, "fp32": False}, on_gpu())


def precision(device: torch.device) -> torch.autocast:
    """In which models learn, for what is sampled and scored where nothing learns. Weights must not change within.

    Inside of another autocast that keeps no copies of weights, such as that of sharded ones, neither does this.
    """
    keeps = torch.is_autocast_cache_enabled()
    return torch.autocast(device.type, torch.bfloat16, enabled=autocasts(), cache_enabled=keeps)


def product_dtype(tensor: Tensor) -> torch.dtype:
    """In which products of a tensor are computed: autocast's where that is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@cache
def one_dnn() -> bool:
    """Whether oneDNN multiplies matrices of fp32 on a CPU. MKL, which torch takes, keeps its fast kernels for Intel's.

    Raises ConfigError for a name that means nothing.
    """
    processor = Path("/proc/cpuinfo")
    slow = torch.backends.mkl.is_available() and processor.is_file() and "AuthenticAMD" in processor.read_text()
    there = torch.backends.mkldnn.is_available()
    return _chosen("RLHF_PRODUCTS", {"onednn": there, "torch": False}, there and slow)


def choices() -> str:
    """All of them in a line."""
    numbers = "bf16 autocast" if autocasts() else "fp32"
    if on_gpu():
        return f"{torch.cuda.get_device_name()}, {numbers}"
    products = "oneDNN" if one_dnn() else "torch"
    return f"{torch.get_num_threads()} threads, {numbers}, products by {products}"


def _chosen(variable: str, meanings: dict[str, bool], otherwise: bool) -> bool:
    name = os.environ.get(variable)
    if name is not None and name not in meanings:
        raise ConfigError(f"{variable} is `{name}` in the environment. Make it {' or '.join(meanings)}, or unset it")
    return otherwise if name is None else meanings[name]
