"""validate: keep the good rows, quarantine the bad ones with every reason, split by prompt, report on the whole set.

What revoked annotators said leaves before anything is counted: the tables and the report are, byte for byte, those of
a collection without it.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pandas as pd
import pyarrow as pa

from rlhf.data.contamination import seen
from rlhf.data.prompts import all_prompts, split_keys, with_hashes
from rlhf.data.quarantine import check
from rlhf.data.report import report
from rlhf.data.splits import split_of
from rlhf.data.tables import COLUMNS, TEXT, of_each_object, read_tables, write_frame
from rlhf.errors import DataError
from rlhf.pipeline.stage import Stage, run_stage

ALONE = ("demonstrations", "texts")  # deps of base and sft in dvc.yaml
SEEN = {"seen": pa.float64()}  # share of a test prompt's words that training texts hold; 0 in the other splits


@dataclass(frozen=True)
class Counts:
    """Rows of a table that came, stayed and went; a row that failed for several reasons counts under each."""

    rows: int
    kept: int
    quarantined: int
    reasons: dict[str, int]


def main(stage: Stage) -> None:
    """Write data/clean, data/quarantine and the counts. Raises DataError when a table is too bad."""
    config = stage.config.validate_
    raw = read_tables(stage.input("data/raw"))
    unknown = strangers(raw, config.revoked)
    left = sum(map(len, raw.values()))
    raw = without(raw, config.revoked)
    left -= sum(map(len, raw.values()))
    parts = {table: check(table, raw.pop(table), config.max_characters) for table in list(raw)}  # each is held once
    counts = {table: counted(good, bad) for table, (good, bad) in parts.items()}
    refuse(counts, {table: bad for table, (_, bad) in parts.items()}, config.max_quarantined)
    clean = {table: with_hashes(good) for table, (good, _) in parts.items()}
    clean["prompts"] = all_prompts(clean)
    for table, rows in clean.items():
        clean[table] = rows.assign(split=of_each_object(lambda key: split_of(key, config.splits), split_keys(rows)))
    with ThreadPoolExecutor(max_workers=1) as writer:  # takes as long as the report
        written = writer.submit(_write, stage, clean, {table: bad for table, (_, bad) in parts.items()})
        found = report(clean)
        written.result()
    stage.report(
        "reports/validate.json",
        {
            "tables": {table: asdict(count) for table, count in counts.items()},
            "prompts": len(clean["prompts"]),
            "set": found,
        },
    )
    kept, gone = (sum(getattr(count, name) for count in counts.values()) for name in ("kept", "quarantined"))
    said = f"{kept:,} rows kept, {gone:,} quarantined; {len(clean['prompts']):,} prompts"
    said += f"; {left:,} rows of revoked annotators left out" if config.revoked else ""
    stage.summary(said + (f"; nobody is called {', '.join(unknown)}" if unknown else ""))


def strangers(tables: dict[str, pd.DataFrame], revoked: Sequence[str]) -> list[str]:
    """Those of whom no table has a row."""
    columns = [rows["annotator"] for rows in tables.values() if "annotator" in rows]
    return [name for name in revoked if not any((column == name).any() for column in columns)]


def without(tables: dict[str, pd.DataFrame], revoked: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables without what the annotators said; a table of which nothing is left was never there.

    Raises DataError where no table is left."""
    kept = dict(tables)
    for table, rows in tables.items():
        if "annotator" in rows and (gone := rows["annotator"].isin(revoked)).any():
            kept[table] = rows[~gone]
    left = {table: rows for table, rows in kept.items() if len(rows) or not len(tables[table])}
    if tables and not left:
        raise DataError("validate.revoked of params.yaml names everybody whose feedback was collected: nothing is left")
    return left


def counted(clean: pd.DataFrame, bad: pd.DataFrame) -> Counts:
    """How many rows of one table stayed and went, and why."""
    reasons = Counter(reason for row in bad["reasons"] for reason in row)
    return Counts(len(clean) + len(bad), len(clean), len(bad), dict(reasons))


def refuse(counts: dict[str, Counts], bad: dict[str, pd.DataFrame], limit: float) -> None:
    """Raise DataError, with the counts, when a table's share of bad rows is above `limit` or it has no good row."""
    faults = list[str]()
    for table, count in counts.items():
        if not count.kept or count.quarantined / count.rows > limit:
            share, first = count.quarantined / count.rows, first_of_each(bad[table])
            faults.append(f"  {table}: {count.quarantined:,} of {count.rows:,} rows ({share:.1%}) are bad")
            for reason, times in Counter(count.reasons).most_common():
                faults.append(f"    {reason}: {times:,}, the first of them {first[reason]}")
    if faults:
        raise DataError(
            f"Too many bad rows; validate.max_quarantined allows {limit:.1%} of a table.\n" + "\n".join(faults) + "\n"
            "Rows are counted from 0. Mend the source, correct its `columns`, or raise the limit in params.yaml"
        )


def first_of_each(bad: pd.DataFrame) -> dict[str, str]:
    """Where the first row is that is bad for each reason."""
    found = dict[str, str]()
    for source, place, reasons in zip(bad["source"], bad["row"], bad["reasons"], strict=True):
        for reason in reasons:
            found.setdefault(reason, f"row {place} of {source}")
    return found


def _write(stage: Stage, clean: dict[str, pd.DataFrame], bad: dict[str, pd.DataFrame]) -> None:
    """A table without rows is left out, unless a stage depends on it by itself. Prompts are given what training texts
    hold of them."""
    clean = clean | {"prompts": clean["prompts"].assign(seen=seen(clean))}
    kept, quarantine = stage.output("data/clean"), stage.output("data/quarantine")
    for table in COLUMNS:
        rows = clean.get(table, pd.DataFrame(columns=[*COLUMNS[table], "split"]))
        if len(rows) or table in ALONE:
            write_frame(kept, table, rows, {"split": TEXT} | (SEEN if table == "prompts" else {}))
    for table, rows in bad.items():
        if len(rows):
            write_frame(quarantine, table, rows, {"row": pa.int64(), "reasons": pa.list_(TEXT)})


if __name__ == "__main__":
    run_stage(main)
