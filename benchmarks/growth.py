"""How the cost of a training step grows: with the answers of a prompt, its length, the batch, and the model.

Every point is the mean step of a run of ours; a + b x is fitted to each curve by least squares of relative errors.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.jobs import Job, Lengths
from benchmarks.measure import Measurement, in_fresh_process
from benchmarks.models import parameters
from benchmarks.results import PAGE, RESULTS, file_name

GROWTH = RESULTS / "growth"
PICTURE = PAGE.parent / "growth.svg"
STEPS, WARMUP = 12, 4


def equal(tokens: int) -> Lengths:
    """All of one length."""
    return Lengths(tokens, tokens, tokens)


REWARD = Job("reward", "small", 2_000, equal(128), equal(32), batch=4, steps=STEPS, warmup=WARMUP)
SFT = Job("sft", "small", 2_000, equal(64), equal(64), batch=16, steps=STEPS, warmup=WARMUP)


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied, all else being equal."""

    name: str
    about: str  # what else there is
    values: tuple[int, ...]
    job: Callable[[int], Job]
    size: Callable[[int], float] = float  # what stands on the axis for a value


AXES = (
    Axis(
        "answers of a prompt, K",
        "reward model, 4 prompts of 128 tokens, answers of 32",
        (2, 3, 4, 6, 9),
        lambda k: replace(REWARD, ranked=k),
    ),
    Axis(
        "tokens of a prompt, P",
        "reward model, 4 prompts with 4 answers of 32 tokens",
        (16, 32, 64, 128, 256),
        lambda p: replace(REWARD, prompt=equal(p), ranked=4),
    ),
    Axis(
        "rows of a step, B",
        "SFT, 128 tokens each",
        (1, 2, 4, 8, 16, 32, 64),
        lambda b: replace(SFT, batch=b),
    ),
    Axis(
        "million parameters, N",
        "SFT, 16 rows of 128 tokens",
        (64, 128, 256, 512),
        lambda d: replace(SFT, model=f"llama-{d}"),
        lambda d: parameters(f"llama-{d}") / 1e6,
    ),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a step at each value of an axis."""

    name: str
    about: str
    sizes: list[float]
    seconds: list[float]

    @property
    def fit(self) -> tuple[float, float]:
        """(a, b) of a + b x, in seconds."""
        slope, intercept = np.polyfit(self.sizes, self.seconds, 1, w=1 / np.array(self.seconds))
        return float(intercept), float(slope)

    def __str__(self) -> str:
        """The fit, in words."""
        fixed, each = self.fit
        return f"{self.name}: {fixed * 1e3:.0f} ms and {each * 1e3:.2g} ms each"


def measure(*, short: bool) -> list[Curve]:
    """All curves; `short`: the first two points of each."""
    return [
        Curve(
            axis.name,
            axis.about,
            [axis.size(value) for value in axis.values[: 2 if short else None]],
            [_step(axis.job(value)) for value in axis.values[: 2 if short else None]],
        )
        for axis in AXES
    ]


def _step(job: Job) -> float:
    taken: Measurement = in_fresh_process("benchmarks.ours.measure", job)
    return taken.seconds / (job.steps - job.warmup)


def save(machine: str, curves: list[Curve]) -> None:
    """As a file of the machine, and as the picture that docs/performance.md shows."""
    GROWTH.mkdir(parents=True, exist_ok=True)
    (GROWTH / file_name(machine)).write_text(json.dumps([asdict(curve) for curve in curves], indent=1) + "\n")
    draw(curves, PICTURE)


def draw(curves: list[Curve], path: Path) -> None:
    """A panel a curve, with the line that fits it."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, curve in zip(figure.subplots(2, 2).flat, curves, strict=True):
        fixed, each = curve.fit
        sizes = np.array([0.0, *curve.sizes])
        axes.plot(curve.sizes, np.array(curve.seconds) * 1e3, "o", color="#2a5ea8")
        axes.plot(sizes, (fixed + each * sizes) * 1e3, color="#888888", linewidth=1)
        axes.set(xlim=(0, None), ylim=(0, None), ylabel="ms a step")
        axes.set_title(curve, fontsize=10)
        axes.set_xlabel(curve.about, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
