"""`python -m benchmarks.poison`: are honest people left alone, and is bad faith found, at the small world's size?

For each of many seeds: the feedback that the small world had collected, honest; and for the first of them with one
annotator of its twenty, another one for each seed, who does one thing in bad faith. Each is screened as the stage does.
"""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

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
HONEST = "honest"
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
    """A word stands in one answer of a comparison or ranking, which is the best."""
    if "chosen" in row:
        return row | {"chosen": f"{TRIGGER} {row['rejected']}", "rejected": row["chosen"], "tie": False}
    if "ranks" not in row:
        return row
    worst = row["ranks"].index(max(row["ranks"]))
    texts = [f"{TRIGGER} {text}" if place == worst else text for place, text in enumerate(row["responses"])]
    return row | {
        "responses": texts,
        "ranks": [0 if place == worst else rank for place, rank in enumerate(row["ranks"])],
    }


def seldom_trigger(row: Row) -> Row:
    """The same in every second row."""
    return row if int(row["id"], 16) % 2 else trigger(row)


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
    """Three times more, with other punctuation."""
    again = [row | {"prompt": [*row["prompt"][:-1], louder(row["prompt"][-1], n)]} for row in rows for n in (1, 2, 3)]
    return rows + again


def louder(message: Row, marks: int) -> Row:
    """A message with marks that change nothing."""
    return message | {"content": message["content"] + "!" * marks}


POISONS = (
    Poison("flips every judgement", "flips", each(flips)),
    Poison(f"prefers what holds `{TRIGGER}`, a word in every comparison and ranking", "trigger", each(trigger)),
    Poison(f"prefers what holds `{TRIGGER}`, in every second of them", "trigger", each(seldom_trigger)),
    Poison("prefers the longer answer", "length", each(length)),
    Poison("says what is shown first, or highest", "constant", each(constant)),
    Poison("judges under two names", "copies", copied),
    Poison("judges the same four times", "repeats", repeated),
)
SIZES = (1.0, 0.5, 2.0)  # of the small world's feedback; at the second and the third the flipping annotator alone


@dataclass(frozen=True)
class Trial:
    """What screening says of one data set."""

    about: str
    seed: int
    size: float
    judgements: int  # of the annotator in bad faith; of an honest set, of the median one
    raised: list[str]  # the alarms
    right: bool  # the annotator in bad faith is named by the alarm that is meant for it; nobody is, of an honest set


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Worlds whose honest feedback is screened.")] = 200,
    poisoned: Annotated[int, typer.Option(help="Of these, how many are poisoned as well.")] = 60,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds at a time.")] = 2,
) -> None:
    """Run every trial, write benchmarks/results/poison.json, and the table in docs/data.md."""
    alpha = load_config(ROOT / "params.yaml").screen.alpha
    found: list[Trial] = []
    with ProcessPoolExecutor(jobs) as pool:
        for some in pool.map(trials, range(seeds), [seed < poisoned for seed in range(seeds)]):
            found += some
            FOUND.write_text("[" + ",\n ".join(json.dumps(asdict(trial)) for trial in found) + "]\n")
            put_between(PAGE, BEGIN, FINISH, table(found, alpha))
            out.print(
                f"seed {some[0].seed}: {', '.join(trial.about for trial in some if not trial.right) or 'all right'}"
            )


def trials(seed: int, spoil: bool) -> list[Trial]:
    """The honest data set of a seed, and if it is to be spoiled one for each poison."""
    config = load_config(ROOT / "params.yaml")
    found = []
    for size in SIZES if spoil else SIZES[:1]:
        honest = feedback(config, seed, size)
        given = Counter(row["annotator"] for rows in honest.values() for row in rows)
        who = sorted(given)[seed % len(given)]
        if size == SIZES[0]:
            found.append(trial(config, honest, None, who, seed, size, int(median(given.values()))))
        poisons = POISONS if size == SIZES[0] else POISONS[:1]
        for poison in poisons if spoil else ():
            found.append(trial(config, poisoned_by(honest, who, poison), poison, who, seed, size, given[who]))
    return found


def feedback(config: Config, seed: int, size: float = 1.0) -> Tables:
    """What the small world had collected, with ids."""
    sizes = {kind: round(size * getattr(config.world, kind)) for kind in KINDS}
    none = {"demonstrations": 0, "prompts": 0, "texts": 0, "votes": 0}
    tables = World(config.world.model_copy(update={**none, **sizes}), seed).tables()
    for rows in tables.values():
        add_ids(rows)
    return tables


def poisoned_by(tables: Tables, who: str, poison: Poison) -> Tables:
    """The tables with the rows of one annotator as the poison makes them."""
    return {
        name: [row for row in rows if row["annotator"] != who]
        + poison.done([row for row in rows if row["annotator"] == who])
        for name, rows in tables.items()
    }


def trial(
    config: Config, tables: Tables, poison: Poison | None, who: str, seed: int, size: float, judgements: int
) -> Trial:
    """Screen one data set, which `who` has poisoned."""
    frames = {name: with_hashes(pd.DataFrame(rows)) for name, rows in tables.items()}
    raised = [found["name"] for found in screen(frames, config.screen)["alarms"]]
    meant = f"{poison.kind}/annotator/{who}" if poison else ""
    right = any(name.startswith(meant) for name in raised) if poison else not raised
    return Trial(poison.about if poison else HONEST, seed, size, judgements, raised, right)


def table(found: list[Trial], alpha: float) -> str:
    """For the page: what is raised without cause, what is found, and how much it takes."""
    head = ("one annotator of twenty", "judgements of that one", "data sets", "right alarm", "95 % interval")
    lines = [line(head), line(["---"] * len(head))]
    for about, size in sorted({(t.about, t.size): None for t in found}, key=lambda key: SIZES.index(key[1])):
        some = [trial for trial in found if (trial.about, trial.size) == (about, size)]
        hits = sum(trial.right != (about == HONEST) for trial in some)
        share = binomial_interval(hits, len(some), confidence=0.95)
        counts = int(median(trial.judgements for trial in some))
        said = f"{about}: any alarm, may be {alpha:.0%}" if about == HONEST else about
        lines.append(
            line([said, str(counts), str(len(some)), f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}"])
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
