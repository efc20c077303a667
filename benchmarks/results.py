"""What was measured, as a file a machine, as a table on a terminal, and as one in docs/performance.md."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

RESULTS = Path(__file__).parent / "results"
TRAINING = RESULTS / "training"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, FINISH = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PEERS = ("tuned", "shipped")  # TRL at its best, and as it comes


@dataclass(slots=True)
class Row:
    """One job. Every list holds one value a repetition, for `ours`, `tuned` and `shipped`."""

    stage: str  # as a table names it
    model: str
    unit: str
    rate: dict[str, list[float]] = field(default_factory=dict)  # units a second
    tokens: dict[str, list[float]] = field(default_factory=dict)  # tokens a second
    peak_mb: dict[str, list[float]] = field(default_factory=dict)
    share: dict[str, list[float]] = field(default_factory=dict)  # of the measured matrix-product rate
    differences: dict[str, float] = field(default_factory=dict)  # largest over all steps, repetitions and peers
    error: str = ""  # why there is no time

    def ratio(self, peer: str, of: str = "rate") -> list[float]:
        """Ours to the peer's, repetition by repetition."""
        values: dict[str, list[float]] = getattr(self, of)
        return [ours / theirs for ours, theirs in zip(values["ours"], values[peer], strict=True)]

    def cells(self, separator: str) -> dict[str, str]:
        """As a line of the table; what comes before a spread stands `separator` from it."""
        if self.error:
            return {"stage": self.stage, "model": self.model, "ours a second": "differs"}
        return {
            "stage": self.stage,
            "model": self.model,
            "ours a second": f"{median(self.rate['ours']):,.1f}{separator}{self.unit}",
            "to TRL tuned": spread(self.ratio("tuned"), separator),
            "to TRL shipped": spread(self.ratio("shipped"), separator),
            "memory": f"{median(self.ratio('tuned', 'peak_mb')):.2f}x{separator}{median(self.peak_mb['ours']):,.0f} MB",
            "matmul": f"{median(self.share['ours']):.0%}{separator}{median(self.share['tuned']):.0%}",
            "differs": f"{max(self.differences.values()):.0e}" if self.differences else "",
        }


@dataclass(slots=True)
class Results:
    """All rows of a machine, and what they were measured with."""

    machine: str
    threads: int
    matmul: float  # operations a second
    versions: dict[str, str]
    rows: list[Row]

    @property
    def path(self) -> Path:
        """Where they are kept."""
        return TRAINING / file_name(self.machine)

    def save(self) -> None:
        """Write them, in the places of rows of the same jobs that the file has already, else behind its rows."""
        there = load(self.path) if self.path.is_file() else replace(self, rows=[])
        rows = list({(row.stage, row.model): row for row in (*there.rows, *self.rows)}.values())
        best = max(self.matmul, there.matmul)  # of a machine that may be busy at times
        TRAINING.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(asdict(replace(self, rows=rows, matmul=best)), indent=1) + "\n")

    @property
    def caption(self) -> str:
        """What a reader needs to judge them."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        runs = sorted({len(row.rate["ours"]) for row in self.rows if not row.error})
        return (
            f"{self.machine}, {self.threads} threads, matrix products at {self.matmul / 1e9:,.0f} GFLOP/s; {versions}; "
            f"median of {' or '.join(map(str, runs))} runs each, in turn (minimum to maximum)"
        )


def load(path: Path) -> Results:
    """Results that `save` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text())
    return Results(**raw | {"rows": [Row(**row) for row in raw["rows"]]})


def spread(values: list[float], separator: str) -> str:
    """Median, minimum and maximum."""
    return f"{median(values):.2f}x{separator}{min(values):.2f} to {max(values):.2f}"


def terminal_table(results: Results) -> Table:
    """For a terminal; what went wrong stands below it."""
    columns = [row.cells("\n") for row in results.rows]
    wrong = [f"{row.stage}, {row.model}: {row.error}" for row in results.rows if row.error]
    table = Table(*max(columns, key=len), caption="\n".join([results.caption, *wrong]), padding=(0, 1, 1, 0), box=None)
    for cells, row in zip(columns, results.rows, strict=True):
        table.add_row(*cells.values(), style="red" if row.error else None)
    return table


def markdown_table(results: Results) -> str:
    """For a page."""
    cells = [row.cells("<br>") for row in results.rows]
    columns = max(cells, key=len)
    lines = [f"**{results.caption}.**", "", line(columns), line(["---"] * len(columns))]
    lines += [line([row.get(name, "") for name in columns]) for row in cells]
    return "\n".join([*lines, *(f"\n{row.stage}, {row.model}: {row.error}" for row in results.rows if row.error)])


def write_page(page: Path = PAGE, results: Path = TRAINING) -> None:
    """Put the tables of all machines between the page's markers. Raises ValueError when it has none."""
    tables = "\n\n".join(markdown_table(load(path)) for path in sorted(results.glob("*.json")))
    put_between(page, BEGIN, FINISH, tables)


def put_between(page: Path, begin: str, finish: str, tables: str) -> None:
    """Put tables between two markers of a page. Raises ValueError when it lacks them."""
    before, begins, rest = page.read_text().partition(begin)
    _, finishes, after = rest.partition(finish)
    if not (begins and finishes):
        raise ValueError(f"{page} lacks the markers {begin} and {finish}: the table goes between them")
    page.write_text(f"{before}{begin}\n{tables}\n{finish}{after}")


def file_name(machine: str) -> str:
    """Of the results of a machine."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") + ".json"


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
