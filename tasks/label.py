"""label: rankings and thumbs from the feedback that was collected, and from people who rank the samples; and what
people believe.

The simulated people rank the samples by every criterion that they know, whichever `reward.criteria` names: so no
reward model is trained again when another one comes, goes or weighs more. Who is revoked is not asked.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from rlhf.data.conversions import to_polls, to_rankings, to_thumbs
from rlhf.data.ids import add_ids, opening_hash, prompt_hash
from rlhf.data.labelling import grouped
from rlhf.data.prompts import with_hashes
from rlhf.data.report import pairs
from rlhf.data.rows import read_rows
from rlhf.data.splits import REFEREE, is_for_referee
from rlhf.data.tables import FEEDBACK, TEXT, of_each_object, read_tables, write_frame
from rlhf.errors import DataError
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.sheets import task_name
from rlhf.world import World
from rlhf.world.annotators import SOURCE, Annotators
from rlhf.world.gold import CRITERIA

Frames = dict[str, pd.DataFrame]  # rankings by origin: a table of feedback, or "samples"


def main(stage: Stage) -> None:
    """Write data/judgements: every judgement as rankings and as thumbs, and beliefs, with the split of their prompt.

    Judgements of the referee's share of the train prompts have a split of their own: who reads train does not see them.
    """
    tables = read_tables(stage.input("data/clean"))
    samples = read_rows(stage.input("data/samples"), "samples")
    annotators = World(stage.config.world, stage.seed).annotators.without(stage.config.validate_.revoked)
    group = stage.config.label.group
    if group is not None:
        tables = of_group(tables, group)
        annotators = annotators.of(group) if stage.config.label.judge == "world" else annotators
    share = stage.config.label.referee
    tables |= {name: dealt(tables[name], share) for name in FEEDBACK if name in tables}
    rankings, unused = convert(tables)
    if stage.config.label.judge == "world":
        asked = [judge(annotators.by(criterion), samples, stage.seed) for criterion in CRITERIA]
        rankings["samples"] = dealt(pd.concat(asked, ignore_index=True), share)
    elif unranked := left_unranked(samples, rankings):
        unused["sample that nobody judges"] = unranked
    rankings = {origin: rows for origin, rows in rankings.items() if len(rows)}
    if not rankings:
        raise DataError(
            "There is nothing to learn preferences from: no feedback in data/clean, and label.judge is `none`. "
            "Add a source of feedback to `collect.sources`, or let people rank the samples: rlhf label export FILE"
        )
    judged = pd.concat(rankings.values(), ignore_index=True)
    write_frame(stage.output("data/judgements"), "rankings", judged, {"split": TEXT})
    write_frame(stage.output("data/judgements"), "thumbs", thumbs(tables, rankings, unused), {"split": TEXT})
    if "beliefs" in tables:
        polls, left_out = to_polls(tables["beliefs"])
        unused.update(left_out)
        write_frame(stage.output("data/judgements"), "beliefs", polls, {"split": TEXT})
    found = {}
    for criterion in judged["criterion"].unique():
        mine = {origin: rows[rows["criterion"] == criterion] for origin, rows in rankings.items()}
        mine = {origin: rows for origin, rows in mine.items() if len(rows)}
        limit = bayes_accuracy(annotators.by(criterion), mine, tables) if criterion in CRITERIA else None
        found[criterion] = {**describe(mine), "bayes_accuracy": limit}
    stage.report("reports/label.json", {"criteria": found, "unused": unused})
    counts = ", ".join(f"{len(rows):,} from {origin}" for origin, rows in rankings.items())
    limits = {name: said["bayes_accuracy"] for name, said in found.items() if said["bayes_accuracy"] is not None}
    best = ", ".join(f"{limit:.1%} of the unseen ones by {name}" for name, limit in limits.items())
    stage.summary(
        f"{len(judged):,} rankings ({counts})" + (f"; a perfect reward model agrees with {best}" if best else "")
    )


def of_group(tables: Frames, group: str) -> Frames:
    """The tables with the rows of one group in those that name one. Raises DataError when none does."""
    named = [name for name in (*FEEDBACK, "beliefs") if name in tables]
    known = sorted({str(found) for name in named for found in tables[name]["group"].unique()} - {""})
    if named and not known:
        raise DataError(
            f"label.group is `{group}`, and no row names a group. Give the feedback a column `group`, or set it to null"
        )
    if named and group not in known:
        raise DataError(f"label.group is `{group}`, but nobody of that group said anything. Groups: {', '.join(known)}")
    mine = {name: rows[rows["group"] == group] if name in named else rows for name, rows in tables.items()}
    return {name: rows for name, rows in mine.items() if len(rows)}


def dealt(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Judgements, those of the referee's share of the train prompts with the split `referee`. A conversation goes there
    whole: what was answered in it stands in its later prompts."""
    kept = of_each_object(lambda prompt: is_for_referee(opening_hash(prompt), share), rows["prompt"])
    return rows.assign(split=rows["split"].mask((rows["split"] == "train") & kept, REFEREE))


def convert(tables: Frames) -> tuple[Frames, dict[str, int]]:
    """Collected feedback as rankings by origin, and counts of what could not be used, with the reason."""
    rankings, unused = {}, {}
    for table in FEEDBACK:
        if table in tables:
            rankings[table], left_out = to_rankings({table: tables[table]})
            unused.update(left_out)
    return rankings, unused


def thumbs(tables: Frames, rankings: Frames, unused: dict[str, int]) -> pd.DataFrame:
    """Every thumb that was collected, and those that the rankings of another origin amount to; counts into `unused`."""
    given = [tables["thumbs"]] if "thumbs" in tables else []
    ranked = [rows for origin, rows in rankings.items() if origin != "thumbs"]
    if ranked:
        derived, left_out = to_thumbs(pd.concat(ranked, ignore_index=True))
        given.append(derived)
        unused.update(left_out)
    return pd.concat(given, ignore_index=True)


def left_unranked(samples: Sequence[dict[str, Any]], rankings: Frames) -> int:
    """How many samples nobody has ranked, of those of which anybody could."""
    given = rankings.get("rankings", pd.DataFrame(columns=["prompt", "responses"]))
    pairs = zip(given["prompt"], given["responses"], strict=True)
    return len(grouped(samples, policy="").keys() - {task_name(prompt, responses) for prompt, responses in pairs})


def judge(annotators: Annotators, samples: Sequence[dict[str, Any]], seed: int) -> pd.DataFrame:
    """Rankings of the samples: one for each prompt, and one by somebody else for the share that overlaps."""
    rng = np.random.default_rng([seed, 4])
    count = len(annotators.names)
    first = rng.integers(count, size=len(samples))
    second = (first + rng.integers(1, max(count, 2), size=len(samples))) % count
    twice = np.flatnonzero((rng.random(len(samples)) < annotators.rates.overlap) & (second != first))
    who = [int(place) for place in (*first, *second[twice])]
    asked = [*samples, *(samples[int(place)] for place in twice)]
    rows = annotators.rank([row["prompt"] for row in asked], [row["responses"] for row in asked], seed, who)
    add_ids(rows)
    return pd.DataFrame([row | {"split": sample["split"]} for row, sample in zip(rows, asked, strict=True)])


def describe(rankings: Frames) -> dict[str, Any]:
    """What the judgements by one criterion are: how many, how they spread over the splits, and how far people agree."""
    judged = pd.concat(rankings.values(), ignore_index=True)
    of_answers = sum(len(ranks) * (len(ranks) - 1) // 2 for ranks in judged["ranks"])
    return {
        "rankings": {origin: len(rows) for origin, rows in rankings.items()},
        "splits": {str(split): int(count) for split, count in judged["split"].value_counts().items()},
        "pairs": of_answers,
        "tied_pairs": of_answers - sum(map(untied_pairs, judged["ranks"])),
        "agreement": agreement(judged),
    }


def untied_pairs(ranks: Sequence[int]) -> int:
    """How many pairs of the ranks differ."""
    return sum(int(one) != int(other) for one, other in combinations(ranks, 2))


def agreement(judged: pd.DataFrame) -> dict[str, float | int] | None:
    """How often two annotators, asked about the same two answers, order them alike, of the times that both order them.

    An annotator counts once for two answers, by the first order given; whoever is not named is somebody else each time.
    """
    said = pairs({"rankings": with_hashes(judged)})
    said = said[said["preferred"] != 0]
    said = said[(said["annotator"] == "") | ~said.duplicated(["unit", "annotator"])]
    alike = said.groupby(["unit", "preferred"]).size()  # who order two answers one way
    same, both = (int((n * (n - 1) // 2).sum()) for n in (alike, alike.groupby("unit").sum()))
    return {"value": same / both, "pairs": both} if both else None


def bayes_accuracy(annotators: Annotators, rankings: Frames, tables: Frames) -> float | None:
    """The best accuracy that is possible on the test split, of rankings by the annotators' criterion; None unless the
    world made every judgement of it."""
    test = {origin: rows[rows["split"] == "test"] for origin, rows in rankings.items()}
    grades = [levels for origin, rows in test.items() for levels in grades_of(origin, rows, tables)]
    judged = pd.concat(test.values(), ignore_index=True)
    if not sum(map(untied_pairs, judged["ranks"])) or (judged["source"] != SOURCE).any():
        return None
    prompts, responses, ranks = (list(judged[name]) for name in ("prompt", "responses", "ranks"))
    return annotators.bayes_accuracy(prompts, responses, ranks, grades)


def grades_of(origin: str, rankings: pd.DataFrame, tables: Frames) -> list[int]:
    """How many grades the judgements behind each ranking had: the scale of ratings, 2 of thumbs, 0 of comparisons."""
    if origin != "ratings":
        return [2 if origin == "thumbs" else 0] * len(rankings)
    ratings = tables["ratings"]
    scales = dict(zip(map(prompt_hash, ratings["prompt"]), map(int, ratings["scale"]), strict=True))
    return [scales[prompt_hash(prompt)] for prompt in rankings["prompt"]]


if __name__ == "__main__":
    run_stage(main)
