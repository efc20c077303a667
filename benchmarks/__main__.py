"""`python -m benchmarks`, which `make bench` calls."""

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from rich.console import Console

from benchmarks import anatomy, costs, growth, pipeline
from benchmarks.jobs import ONLINE, STAGES, Job, jobs
from benchmarks.measure import Measurement, compare, in_fresh_process
from benchmarks.models import CONFIGS, forward_flops
from benchmarks.results import PEERS, Results, Row, terminal_table, write_page

TOLERANCE = {"cpu": 1e-5, "cuda": 2e-2}  # fp32, and bf16 autocast
SIDES = ("ours", *PEERS)
PIPELINE, GROWTH, ANATOMY = "pipeline", "growth", "anatomy"  # what is not a stage beside TRL's
PARTS = (*STAGES, PIPELINE, GROWTH, ANATOMY)
PPO = str(Path(__file__).parents[1] / ".venv" / "trl-1.12")  # the last release of TRL with PPO
out = Console(highlight=False)

Stages = Annotated[list[str] | None, typer.Option("--stage", help=f"One of {', '.join(PARTS)}; all without it.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="small, medium, or large (on a GPU).")]


def main(
    stage: Stages = None,
    model: Models = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Of every measurement, in turn with its peers.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = psutil.cpu_count(logical=False) or 1,
    short: Annotated[bool, typer.Option(help="Two repetitions of few steps, which are not kept.")] = False,
) -> None:
    """Train ours and TRL on the same tokens from the same weights, compare the losses, then the speed and memory; then
    measure what the pipeline costs around the training."""
    parts = stage or list(PARTS)
    repetitions = min(2, repetitions) if short else repetitions
    if PIPELINE in parts:
        measure_pipeline(repetitions, short=short)
    if GROWTH in parts:
        measure_growth(threads, short=short)
    if ANATOMY in parts:
        measure_anatomy(model, threads, short=short)
    if stages := [part for part in parts if part in STAGES]:
        measure_training(stages, model, repetitions, threads, short=short)


def measure_pipeline(repetitions: int, *, short: bool) -> None:
    """The part `pipeline`."""
    versions = {name: version(name) for name in ("prefect", "dvc", "mlflow", "pandas", "torch")}
    with out.status(PIPELINE):
        made = costs.Costs(machine(), versions, pipeline.measure(repetitions, short=short))
    out.print(costs.terminal_table(made))
    if not short:
        made.save()
        costs.write_page()


def measure_growth(threads: int, *, short: bool) -> None:
    """The part `growth`."""
    prepare_processes(threads)
    with out.status(GROWTH):
        curves = growth.measure(short=short)
    for curve in curves:
        out.print(f"{curve}   ({curve.about})")
    if not short:
        growth.save(machine(), curves)


def measure_anatomy(model: list[str] | None, threads: int, *, short: bool) -> None:
    """The part `anatomy`."""
    prepare_processes(threads)
    with out.status(ANATOMY):
        chosen = [job for job in some_jobs(list(anatomy.STAGES), model) if job.recorded or job.stage not in ONLINE]
        found = [in_fresh_process("benchmarks.anatomy.measure", job) for job in chosen]
    out.print(anatomy.terminal_table(found))
    if not short:
        anatomy.save(machine(), found)


def some_jobs(stages: list[str], model: list[str] | None) -> Iterator[Job]:
    """Jobs of some stages, on the models that are named or that this machine can train."""
    gpu = torch.cuda.is_available()
    models = model or (list(CONFIGS) if gpu else ["small", "medium"])
    return jobs(stages, models, {name: config.vocab_size for name, config in CONFIGS.items()}, gpu=gpu)


def prepare_processes(threads: int) -> None:
    """What the processes of measurements begin with."""
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asked otherwise, CUDA would not start in what is forked after it
    }
    get_context("forkserver").set_forkserver_preload(["benchmarks.peer"])


def measure_training(
    stages: list[str], model: list[str] | None, repetitions: int, threads: int, *, short: bool
) -> None:
    """Every other part. What computes something else than ours does ends the program with an error."""
    gpu = torch.cuda.is_available()
    prepare_processes(threads)
    results = Results(
        machine=machine(),
        threads=threads,
        matmul=in_fresh_process("benchmarks.measure.matmul_rate"),
        versions={name: version(name) for name in ("torch", "transformers", "trl")},
        rows=[],
    )
    for job in some_jobs(stages, model):
        with out.status(f"{job.title}, {job.model}"):
            some = replace(job, steps=job.warmup + 2) if short and job.stage != "decode" else job
            results.rows.append(row(some, repetitions, results.matmul, TOLERANCE["cuda" if gpu else "cpu"]))
        if not short:
            results.save()
    out.print(terminal_table(results))
    if not short:
        write_page()
    if any(row.error for row in results.rows):
        raise typer.Exit(1)


def row(job: Job, repetitions: int, matmul: float, tolerance: float) -> Row:
    """All repetitions of a job. What computes something else than ours does is an error, not a time."""
    made = Row(job.title, job.model, job.unit)
    for _ in range(repetitions):
        taken = {side: measured(job, side) for side in SIDES}
        for side, one in taken.items():
            flops = job.passes * forward_flops(job, one.tokens)
            for values, value in (
                (made.rate, one.units / one.seconds),
                (made.tokens, one.tokens / one.seconds),
                (made.peak_mb, one.peak_mb),
                (made.share, flops / one.seconds / matmul),
            ):
                values.setdefault(side, []).append(value)
        allowed = 0.0 if job.stage == "decode" else tolerance  # of tokens none may differ
        found, made.error = compare({side: one.overlay for side, one in taken.items()}, allowed)
        made.differences |= {name: max(value, made.differences.get(name, 0.0)) for name, value in found.items()}
        if made.error:
            break
    return made


def measured(job: Job, side: str) -> Measurement:
    """One measurement of one side."""
    arguments = (job,) if side == "ours" else (job, side == "tuned")
    if job.stage == "decode":
        return in_fresh_process(f"benchmarks.decode.{'measure_ours' if side == 'ours' else 'measure_peer'}", *arguments)
    if side == "ours":
        return in_fresh_process("benchmarks.ours.measure", *arguments)
    if job.stage == "ppo":
        return in_fresh_process("benchmarks.peer_ppo.measure", *arguments, method="spawn", path=PPO)
    return in_fresh_process("benchmarks.peer.measure", *arguments)


def machine() -> str:
    """The GPU's name, or the processor's, its family and model, which the name of a rented one hides, and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    core, *_ = Path("/proc/cpuinfo").read_text().split("\n\n")
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in core.splitlines())}
    kind = " ".join(f"{name} {first[name]}" for name in ("cpu family", "model") if name in first)
    return ", ".join(filter(None, (first.get("model name", platform.machine()), kind, f"{os.cpu_count()} cores")))


if __name__ == "__main__":
    typer.run(main)
