"""What is chosen from the machine: threads, precision, and the kernels of large products.

    OMP_NUM_THREADS     threads of a process on a CPU; torch takes the cores that there are
    RLHF_PRECISION      fp32 or bf16 (autocast over weights in fp32); bf16 on a GPU, fp32 on a CPU
    RLHF_PRODUCTS       onednn or torch, of fp32 on a CPU; oneDNN where the processor is not Intel's

A variable of the environment takes the place of the choice. Each may change the last bits of what is computed.
"""

import os
from functools import cache
from pathlib import Path

import torch

from rlhf.errors import ConfigError


def autocasts() -> bool:
    """Whether models learn under bf16 autocast. Raises ConfigError for a name that means nothing."""
    return _chosen("RLHF_PRECISION", {"bf16": True, "fp32": False}, torch.cuda.is_available())


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
    precision = "bf16 autocast" if autocasts() else "fp32"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {precision}"
    products = "oneDNN" if one_dnn() else "torch"
    return f"{torch.get_num_threads()} threads, {precision}, products by {products}"


def _chosen(variable: str, meanings: dict[str, bool], otherwise: bool) -> bool:
    name = os.environ.get(variable)
    if name is not None and name not in meanings:
        raise ConfigError(f"{variable} is `{name}` in the environment. Make it {' or '.join(meanings)}, or unset it")
    return otherwise if name is None else meanings[name]
