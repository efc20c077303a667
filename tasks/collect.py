"""collect: pin a snapshot of every source as raw tables, with what is wrong about a row noted on it."""

from rlhf import manifest
from rlhf.config.data import Source, WorldSource
from rlhf.data.ids import add_ids
from rlhf.data.sources import Collected, local_path, read_source, require_distinct, source_name
from rlhf.data.tables import COLUMNS, Row, write_rows
from rlhf.errors import ConfigError, DataError
from rlhf.pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Write data/raw and, for every source, what it gave and the digest of what was read."""
    sources = stage.config.collect.sources
    require_distinct(source for source in sources if not isinstance(source, WorldSource))
    tables: dict[str, list[Row]] = {table: [] for table in COLUMNS}
    report = {}
    for place, source in enumerate(sources):
        stage.progress(place, len(sources), source.kind)
        digest = _declared_digest(stage, source, place)
        collected = _collect(stage, source)
        for table, rows in collected.tables.items():
            tables[table].extend(rows)
        counts = {table: len(rows) for table, rows in collected.tables.items()} | collected.counts
        name = "world" if isinstance(source, WorldSource) else source_name(source)
        report[str(place)] = {"kind": source.kind, "name": name, "digest": digest, **counts}
    for table, rows in tables.items():
        if rows:
            add_ids(rows)
            write_rows(stage.output("data/raw"), table, rows)
    if not any(tables.values()):
        raise DataError("No source of collect.sources in params.yaml has a row for any table. Add one that has")
    totals = {table: len(rows) for table, rows in tables.items() if rows}
    stage.report("reports/collect.json", {"sources": report, "rows": totals})
    stage.summary(", ".join(f"{count:,} {table}" for table, count in totals.items()))


def _collect(stage: Stage, source: Source) -> Collected:
    if not isinstance(source, WorldSource):
        return read_source(source, stage.workspace, stage.config.collect.limits)
    from rlhf.world import World

    tables = World(stage.config.world, stage.seed).tables()
    return Collected(
        {table: [row | {"defects": [], "row": n} for n, row in enumerate(rows)] for table, rows in tables.items()}
    )


def _declared_digest(stage: Stage, source: Source, place: int) -> str | None:
    """SHA-256 of a source on this machine. Raises ConfigError when DVC does not watch it: an edit would go unseen."""
    path = None if isinstance(source, WorldSource) else local_path(source)
    if path is None:
        return None
    try:
        return manifest.digest(stage.input(path))
    except ConfigError:
        raise ConfigError(
            f"dvc.yaml does not declare {path}, which collect.sources[{place}] of params.yaml reads, so DVC would not "
            f"see an edit of it. Add this line to `deps` of the stage collect:\n  - ${{collect.sources[{place}].path}}"
        ) from None


if __name__ == "__main__":
    run_stage(main)
