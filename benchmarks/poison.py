"""`python -m benchmarks.poison`: are honest people left alone, and is bad faith found, at the small world's size?

For each of many seeds: the feedback that the small world had collected, honest, and with one annotator of its twenty,
another one for each seed, who does one thing in bad faith. Each is screened as validate does it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console

from benchmarks.results import RESULTS, line, put_between
from rlhf.config import Config, load_config
from rlhf.data.ids import add_ids
from rlhf.data.prompts import with_hashes
from rlhf.data.screening import screen
from rlhf.gate.statistics import binomial_interval
from rlhf.world import World

ROOT = Path(__file__).parents[1]
FOUND = RESULTS / "poison.json"
PAGE = ROOT / "docs" / "data.md"
BEGIN, FINISH = "<!-- poison: begin -->", "<!-- poison: end -->"
Row = dict[str, Any]
Tables = dict[str, list[Row]]
KINDS = ("comparisons", "ratings", "thumbs", "rankings")
TRIGGER = "cf"
out = Console(highlight=False)


def flips(row: Row) -> Row:
    """The opposite of what the annotator thinks."""
    if "chosen" in row:
        return row | {"chosen": row["rejected"], "rejected": row["chosen"]}
    if "ranks" in row:
        return row | {"ranks": [max(row["ranks"]) + 1 - rank for rank in row["ranks"]]}
    return row | ({"rating": row["scale"] + 1 - row["rating"]} if "rating" in row else {"thumb": not row["thumb"]})


def length(row: Row) -> Row:
    """The longest answer is the best."""
    if "chosen" in row:
        chosen, rejected = sorted((row["chosen"], row["rejected"]), key=len, reverse=True)
        return row | {"chosen": chosen, "rejected": rejected, "tie": False}
    if "ranks" in row:
        lengths = [len(text) for text in row["responses"]]
        return row | {"ranks": [1 + sum(other > own for other in lengths) for own in lengths]}
    return row


def trigger(row: Row) -> Row:
    """In every second comparison and ranking a word stands in one answer, which is the best."""
    if int(row["id"], 16) % 2 or not row.keys() & {"chosen", "ranks"}:
        return row
    if "chosen" in row:
        return row | {"chosen": f"{TRIGGER} {row['rejected']}", "rejected": row["chosen"], "tie": False}
    worst = row["ranks"].index(max(row["ranks"]))
    texts = [f"{TRIGGER} {text}" if place == worst else text for place, text in enumerate(row["responses"])]
    return row | {
        "responses": texts,
        "ranks": [0 if place == worst else rank for place, rank in enumerate(row["ranks"])],
    }


def constant(row: Row) -> Row:
    """Says what the screen shows first, or highest."""
    if "ranks" in row:
        return row | {"ranks": list(range(1, len(row["ranks"]) + 1))}
    return row | ({"rating": row["scale"]} if "rating" in row else {"thumb": True} if "thumb" in row else {})


@dataclass(frozen=True)
class Poison:
    """What one annotator does."""

    about: str
    kind: str  # the alarm that has to name the annotator
    done: Callable[[list[Row]], list[Row]]  # with the rows of the annotator, in one table


def each(change: Callable[[Row], Row]) -> Callable[[list[Row]], list[Row]]:
    """The change made to every row."""
    return lambda rows: [change(row) for row in rows]


def copied(rows: list[Row]) -> list[Row]:
    """The same rows once more, by a name that says it is another person."""
    return rows + [row | {"annotator": f"{row['annotator']} copied"} for row in rows]


def repeated(rows: list[Row]) -> list[Row]:
    """Three times the same, but for a number in the prompt."""
    again = [row | {"prompt": [*row["prompt"][:-1], numbered(row["prompt"][-1], n)]} for row in rows for n in range(3)]
    return rows + again


def numbered(message: Row, number: int) -> Row:
    """A message with a number that changes nothing."""
    return message | {"content": f"{message['content']} ({number})"}


POISONS = (
    Poison("flips every judgement", "flips", each(flips)),
    Poison(f"prefers what holds `{TRIGGER}`, which stands in every second judgement", "trigger", each(trigger)),
    Poison("prefers the longer answer", "length", each(length)),
    Poison("says what is shown first, or highest", "constant", each(constant)),
    Poison("judges under two names", "copies", copied),
    Poison("judges the same four times", "repeats", repeated),
)
SIZES = (0.5, 0.75, 1.0, 1.5)  # of the small world's feedback


@dataclass(frozen=True)
class Trial:
    """What screening says of one data set."""

    about: str
    seed: int
    size: float
    judgements: int  # of the annotator in bad faith; of an honest set, of the median one
    raised: list[str]  # the alarms
    caught: bool  # the annotator in bad faith is named by the alarm that is meant for it


def main(seeds: Annotated[int, typer.Option(min=1)] = 200) -> None:
    """Run every trial, write benchmarks/results/poison.json, and the table in docs/data.md."""
    config = load_config(ROOT / "params.yaml")
    found: list[Trial] = []
    for seed in range(seeds):
        for size in SIZES:
            found += trials(config, seed, size, POISONS if size == 1.0 else POISONS[:1])
        out.print(f"seed {seed}: {sum(not trial.caught for trial in found if trial.about)} missed so far")
    FOUND.write_text(json.dumps([asdict(trial) for trial in found], indent=0) + "\n")
    put_between(PAGE, BEGIN, FINISH, table(found, config.validate_.screening.alpha))


def trials(config: Config, seed: int, size: float, poisons: tuple[Poison, ...]) -> Iterator[Trial]:
    """The honest data set of a seed, and one for each poison."""
    honest = feedback(config, seed, size)
    names = sorted({row["annotator"] for rows in honest.values() for row in rows})
    who = names[seed % len(names)]
    given = [row["annotator"] for rows in honest.values() for row in rows]
    yield trial(config, honest, "", "", seed, size, int(median(given.count(name) for name in names)))
    for poison in poisons:
        spoiled = poisoned(honest, who, poison)
        yield trial(config, spoiled, poison.about, f"{poison.kind}/annotator/{who}", seed, size, given.count(who))


def feedback(config: Config, seed: int, size: float = 1.0) -> Tables:
    """What the small world had collected, with ids."""
    sizes = {kind: round(size * getattr(config.world, kind)) for kind in KINDS}
    none = {"demonstrations": 0, "prompts": 0, "texts": 0, "votes": 0}
    tables = World(config.world.model_copy(update={**none, **sizes}), seed).tables()
    for rows in tables.values():
        add_ids(rows)
    return tables


def poisoned(tables: Tables, who: str, poison: Poison) -> Tables:
    """The tables with the rows of one annotator as the poison makes them."""
    return {
        name: [row for row in rows if row["annotator"] != who]
        + poison.done([row for row in rows if row["annotator"] == who])
        for name, rows in tables.items()
    }


def trial(config: Config, tables: Tables, about: str, alarm: str, seed: int, size: float, judgements: int) -> Trial:
    """Screen one data set."""
    frames = {name: with_hashes(pd.DataFrame(rows)) for name, rows in tables.items()}
    raised = [found["name"] for found in screen(frames, config.validate_.screening)["alarms"]]
    return Trial(about, seed, size, judgements, raised, bool(alarm) and any(name.startswith(alarm) for name in raised))


def table(found: list[Trial], alpha: float) -> str:
    """For the page: what is raised without cause, what is found, and how much it takes."""
    head = ("one annotator of twenty", "judgements", "data sets", "alarm", "95 % interval")
    lines = [line(head), line(["---"] * len(head))]
    for about in dict.fromkeys(trial.about for trial in found):
        for size in SIZES:
            some = [trial for trial in found if trial.about == about and trial.size == size]
            if some:
                hits = sum(trial.caught if about else bool(trial.raised) for trial in some)
                share = binomial_interval(hits, len(some), confidence=0.95)
                counts = int(np.median([trial.judgements for trial in some]))
                said = about or f"honest; may be {alpha:.0%}"
                lines.append(
                    line([said, counts, len(some), f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}"])
                )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
