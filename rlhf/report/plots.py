"""The report's plots as SVG text that can stand in a page: no file beside it, the same bytes every time."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.gate.frontier import Overoptimization, Path
from rlhf.gate.records import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # stands for the page's own text colour, in light and in dark
COLOURS = (  # readable on white and on black
    *("#3b82f6", "#e07b00", "#12a150", "#a855f7", "#e11d48", "#0891a5"),
    *("#84770a", "#d946a0", "#78716c", "#6a9f12"),
)
BELOW: dict[str, Any] = {
    "fontsize": 8,
    "ncols": 4,
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.18),
    "frameon": False,
}
SMALL: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.0, "alpha": 0.75}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page sets its own
    "font.size": 9,
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Figure:
    """A plot: what its heading says, what it shows in words, and its SVG."""

    title: str
    description: str
    svg: str

    def alone(self) -> str:
        """The SVG as a file of its own, on white."""
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        opening = rf'<svg {spaces} viewBox="\1" color="#333" font-family="sans-serif" style="background: white">'
        return re.sub(r'<svg viewBox="([^"]+)"[^>]*>', opening, self.svg, count=1)


@dataclass(frozen=True)
class Gain:
    """What a policy gained over SFT in mean reward, and how far from SFT it went for it."""

    policy: str
    kl: float
    proxy: float
    gold: float | None


Curves = Mapping[str, Sequence[float]]  # a metric: its value at each step; "step": the steps


def losses(curves: Mapping[str, Curves]) -> Figure:
    """Loss of each stage that trains, and its mean over twentieths of the training, each in a panel of its own since
    their units differ."""
    ends = []
    with _canvas("losses", len(curves)) as (axes, svg):
        for axis, colour, (name, found) in zip(axes, _cycle(), curves.items(), strict=False):
            window = max(1, len(found["loss"]) // 20)
            means = np.convolve(found["loss"], np.full(window, 1 / window), "valid")
            axis.plot(found["step"], found["loss"], color=colour, linewidth=0.8, alpha=0.4)
            axis.plot(found["step"][window // 2 :][: len(means)], means, color=colour)
            axis.set(title=name, xlabel="step", ylabel="loss")
            ends.append(f"{name} {means[0]:.3g} to {means[-1]:.3g}")
    words = f"Means over a twentieth of the steps, the first and the last: {'; '.join(ends)}."
    return Figure("Loss of each stage", words, "".join(svg))


def reward_against_kl(gains: Sequence[Gain], paths: Mapping[str, Curves]) -> Figure:
    """Gain in reward over SFT of each policy against its KL; and the way there of those that sampled as they learned.

    paths: curves by policy, with `kl` and `reward`.
    """
    colours = dict(zip((gain.policy for gain in gains), _cycle(), strict=False))
    with _canvas("reward-kl", 2 if paths else 1) as (axes, svg):
        for gain in gains:
            colour = colours[gain.policy]
            axes[0].plot(gain.kl, gain.proxy, "o", color=colour, label=gain.policy, markersize=8)
            if gain.gold is not None:
                axes[0].plot(gain.kl, gain.gold, "s", color=colour, markersize=8)
        axes[0].axhline(0, color=INK, linewidth=0.8)
        axes[0].set(title="Policies: ● reward model, ■ gold", xlabel="KL from SFT, nats a sequence")
        axes[0].set(ylabel="gain in mean reward over SFT")
        axes[0].margins(0.1)
        axes[0].legend(**BELOW)
        for name, path in paths.items():
            axes[1].plot(path["kl"], path["reward"], color=colours.get(name, INK), label=name, linewidth=1.2)
        if paths:
            axes[1].set(title="On the way there", xlabel="KL from SFT, nats a sequence", ylabel="mean reward")
            axes[1].legend(**BELOW)
    words = "; ".join(map(_gained, gains))
    return Figure("Reward against KL", f"Gain over SFT. {words}.", "".join(svg))


def frontier(paths: Mapping[str, Sequence[Path]], fits: Mapping[str, Overoptimization], equal_kl: float) -> Figure:
    """Gain over SFT against KL along every training of each policy; where gold is known, also by gold, with the law of
    over-optimisation fitted to it."""
    places = [place for found in paths.values() for path in found for place in path]
    known = any(place.gold for place in places)
    with _canvas("frontier", 2 if known else 1) as (axes, svg):
        for (name, found), colour in zip(paths.items(), _cycle(), strict=False):
            for number, path in enumerate(found):
                kl, label = [0.0, *(max(p.kl.value, 0.0) for p in path)], name if number == 0 else None
                axes[0].plot(kl, [0.0, *(p.proxy.value for p in path)], "o-", color=colour, label=label, **SMALL)
                gold = [p.gold.value if p.gold else math.nan for p in path]
                if known:
                    axes[1].plot(kl, [0.0, *gold], "o", color=colour, **SMALL)
            if fit := fits.get(name):
                distances = np.linspace(0, math.sqrt(fit.reached_kl), 100)[1:]
                axes[1].plot(distances**2, [fit(d) for d in distances], color=colour, linewidth=1.2)
        for axis, judge in zip(axes, ("By the reward model", "By gold"), strict=False):
            axis.axhline(0, color=INK, linewidth=0.8)
            axis.axvline(equal_kl, color=INK, linewidth=0.8, linestyle=":")
            axis.set_xscale("function", functions=(np.sqrt, np.square))
            axis.set(title=judge, xlabel="KL from SFT, nats a sequence", xlim=(0, None))
        axes[0].set(ylabel="gain in mean reward over SFT")
        axes[0].legend(**BELOW)
    of_proxy, of_gold = _half(p.proxy for p in places), _half(p.gold for p in places)
    by_gold = f" and ±{of_gold:.2g} by gold. The curves are the fits of the table below." if known else "."
    words = (
        "Each point is a policy on the path of one training: a mean over the test prompts, its interval at most "
        f"±{of_proxy:.2g} by the reward model{by_gold} Dotted: a KL of {equal_kl:.3g}, which every training reached."
    )
    return Figure("Reward against KL", words, "".join(svg))


def _half(intervals: Iterable[Interval | None]) -> float:
    """Half of the widest interval; 0 of none."""
    return max(((i.high - i.low) / 2 for i in intervals if i), default=0.0)


def _gained(gain: Gain) -> str:
    proxy = f"{gain.policy} at a KL of {gain.kl:.3g}: reward model {gain.proxy:+.3g}"
    return proxy if gain.gold is None else f"{proxy}, gold {gain.gold:+.3g}"


def reward_calibration(found: Mapping[str, Curves]) -> Figure:
    """How often the reward model of each criterion is right at each confidence; the diagonal is a calibrated one."""
    words = []
    with _canvas("calibration") as ((axis,), svg):
        axis.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle="--", label="calibrated")
        for colour, (name, bins) in zip(_cycle(), found.items(), strict=False):
            axis.plot(bins["confidence"], bins["accuracy"], "o-", color=colour, label=f"reward model {name}")
            gap = max(abs(c - a) for c, a in zip(bins["confidence"], bins["accuracy"], strict=True))
            words.append(f"{name}, {len(bins['confidence'])} groups of unseen pairs, gap {gap:.2f}")
        axis.set(xlabel="confidence in the preferred answer", ylabel="share that is right")
        axis.legend(fontsize=8)
    return Figure("Reward-model calibration", f"Largest gap to the diagonal: {'; '.join(words)}.", "".join(svg))


def lengths(found: Mapping[str, Sequence[float]]) -> Figure:
    """How long the answers of each model are: the middle half in a box, the median in it, the 5th to 95th percent."""
    with _canvas("lengths") as ((axis,), svg):
        names = list(found)[::-1]
        line, values = {"color": INK}, [found[name] for name in names]
        axis.boxplot(
            values,
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
        )
        axis.set_yticks(range(1, len(names) + 1), names)
        axis.set(xlabel="tokens an answer")
    means = ", ".join(f"{name} {sum(values) / len(values):.1f}" for name, values in found.items())
    return Figure("Length of the answers", f"Mean tokens: {means}.", "".join(svg))


def _cycle() -> Iterator[str]:
    while True:
        yield from COLOURS


@contextmanager
def _canvas(name: str, panels: int = 1) -> Iterator[tuple[list["Axes"], list[str]]]:
    """Axes, three abreast; when the block ends, the list holds the SVG. `name` keeps ids of figures on a page apart."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    svg: list[str] = []
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        columns, rows = min(panels, 3), -(-panels // 3)
        size = (5.0, 3.2) if panels == 1 else (3.2 * max(columns, 2.5), (2.4 if columns == 3 else 3.2) * rows)
        figure = Canvas(figsize=size, layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis in axes[panels:]:
            axis.remove()
        yield axes[:panels], svg
        figure.patch.set_alpha(0)
        for axis in figure.axes:
            axis.patch.set_alpha(0)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    svg.append(_embedded(buffer.getvalue(), name, width=size[0]))


def _embedded(svg: str, name: str, width: float) -> str:
    """Only the element, scaled to its place, with ids of its own and the page's text colour; `width` in inches."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    opening = rf'<svg viewBox="\1" style="max-width: {100 * width:.0f}px" aria-hidden="true">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', opening, svg, count=1)
