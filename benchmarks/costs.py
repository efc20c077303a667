"""What the pipeline costs, as a file a machine, as a table on a terminal, and as one in docs/performance.md."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.results import PAGE, RESULTS, file_name, line, put_between

COSTS = RESULTS / "pipeline"
BEGIN, FINISH = "<!-- costs: begin -->", "<!-- costs: end -->"


@dataclass(slots=True)
class Cost:
    """One row; `values` holds one a repetition, and `goal` is the most that it may be."""

    what: str
    unit: str  # s, GB
    values: list[float]
    goal: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it is above its goal."""
        return self.goal is not None and median(self.values) > self.goal

    def cells(self) -> dict[str, str]:
        """As a line of the table."""
        low, high = min(self.values), max(self.values)
        spread = f" ({low:.2f} to {high:.2f})" if len(self.values) > 1 else ""
        goal = f"{self.goal:g} {self.unit}" if self.goal is not None else ""
        return {"what": self.what, "costs": f"{median(self.values):.2f} {self.unit}{spread}", "at most": goal}


@dataclass(slots=True)
class Costs:
    """All rows of a machine, and what they were measured with."""

    machine: str
    versions: dict[str, str]
    rows: list[Cost] = field(default_factory=list)

    @property
    def caption(self) -> str:
        """What a reader needs to judge them."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.machine}; {versions}; median (minimum to maximum)"

    def save(self) -> None:
        """Write them in the place of those of an earlier run."""
        COSTS.mkdir(parents=True, exist_ok=True)
        (COSTS / file_name(self.machine)).write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Costs:
    """Costs that `save` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text())
    return Costs(**raw | {"rows": [Cost(**row) for row in raw["rows"]]})


def terminal_table(costs: Costs) -> Table:
    """For a terminal; what is above its goal is red."""
    table = Table(*costs.rows[0].cells(), caption=costs.caption, box=None)
    for row in costs.rows:
        table.add_row(*row.cells().values(), style="red" if row.missed else None)
    return table


def markdown_table(costs: Costs) -> str:
    """For a page."""
    cells = [row.cells() for row in costs.rows]
    lines = [f"**{costs.caption}.**", "", line(cells[0]), line(["---"] * len(cells[0]))]
    return "\n".join([*lines, *(line(row.values()) for row in cells)])


def write_page(page: Path = PAGE, costs: Path = COSTS) -> None:
    """Put the tables of all machines between the page's markers. Raises ValueError when it has none."""
    tables = "\n\n".join(markdown_table(load(path)) for path in sorted(costs.glob("*.json")))
    put_between(page, BEGIN, FINISH, tables)
