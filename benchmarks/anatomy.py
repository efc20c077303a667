"""Where the time of our steps goes: the kernels that any implementation needs, and all the rest."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import ours
from benchmarks.jobs import Job
from benchmarks.results import PAGE, RESULTS, file_name, line, put_between

ANATOMY = RESULTS / "anatomy"
BEGIN, FINISH = "<!-- anatomy: begin -->", "<!-- anatomy: end -->"
STAGES = ("sft", "reward", "grpo", "ppo")
# Kinds of operations by a part of their names; the first that fits counts.
KINDS = {
    "products": ("linear_pointwise", "::mm", "::addmm"),
    "attention": ("scaled_dot_product", "_flash_attention", "_efficient_attention", "bmm", "::_softmax"),
    "softmax": ("softmax", "::exp", "::gather", "scatter"),
    "optimizer": ("adamw", "AdamW", "foreach", "clip"),
}
REST, BETWEEN = "other operations", "between them"


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Shares of the time of one job, by kind of operation."""

    stage: str
    model: str
    shares: dict[str, float]

    def cells(self) -> dict[str, str]:
        """As a line of the table."""
        return {"stage": self.stage, "model": self.model} | {name: f"{x:.0%}" for name, x in self.shares.items()}


def measure(job: Job) -> Anatomy:
    """Profile the timed steps of a job."""
    gpu = torch.cuda.is_available()
    profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])])
    seconds = ours.measure(job, profiler).seconds
    taken = Counter[str]()
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:  # a kernel, whose time its operation has too
            continue
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        taken[next((kind for kind, parts in KINDS.items() if any(p in event.key for p in parts)), REST)] += own
    shares = {kind: taken[kind] / 1e6 / seconds for kind in (*KINDS, REST)}
    return Anatomy(job.title, job.model, shares | {BETWEEN: max(0.0, 1 - sum(shares.values()))})


def save(machine: str, found: list[Anatomy]) -> None:
    """As a file of the machine, and as the table of docs/performance.md."""
    ANATOMY.mkdir(parents=True, exist_ok=True)
    (ANATOMY / file_name(machine)).write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    put_between(PAGE, BEGIN, FINISH, "\n\n".join(map(_markdown, sorted(ANATOMY.glob("*.json")))))


def terminal_table(found: list[Anatomy]) -> Table:
    """For a terminal."""
    table = Table(*found[0].cells(), box=None)
    for one in found:
        table.add_row(*one.cells().values())
    return table


def _markdown(path: Path) -> str:
    cells = [Anatomy(**one).cells() for one in json.loads(path.read_text())]
    return "\n".join([line(cells[0]), line(["---"] * len(cells[0])), *(line(row.values()) for row in cells)])
