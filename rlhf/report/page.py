"""A page of a report: one file, without a script or a resource from elsewhere.

Everything in it that a model, a data set or a parameter wrote is escaped, and its invisible characters are shown.
"""

from collections.abc import Iterable
from pathlib import Path

import jinja2
import markupsafe

from rlhf.gate.records import Interval, WinRate
from rlhf.report import plots
from rlhf.text import title, visible

TEMPLATES = Path(__file__).parent / "templates"
# What a browser may do with a page: show it, in its own styles. Nothing runs, is fetched, or is sent.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(template: str, figures: Iterable[plots.Figure], **values: object) -> str:
    """A template with its values, and `figures` as pairs of a figure and its picture."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals["policy"] = POLICY
    environment.filters |= {"percent": percent, "number": number, "title": title, "visible": visible}
    pictures = [(figure, markupsafe.Markup(figure.svg)) for figure in figures]
    return environment.get_template(template).render(figures=pictures, **values)


def percent(value: float | WinRate | None) -> str:
    """A share, or a win rate with its interval."""
    if value is None:
        return "–"
    if isinstance(value, WinRate):
        return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"
    return f"{value:.1%}"


def number(value: float | Interval | None) -> str:
    """A number to three digits, or a KL with its interval; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, Interval):
        ends = f" ({value.low:.1f} to {value.high:.1f})" if value.low != value.high else ""
        return f"{value.value:.1f}{ends}"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 100 else f"{value:.3g}"
