"""Where feedback comes from: every source becomes rows of the tables, with what is wrong about a row noted on it."""

from dataclasses import dataclass, field
from pathlib import Path

from rlhf.config.data import DialoguesSource, FileSource, HubData, HubSource, LimitsConfig, TextSource, TreesSource
from rlhf.data.records import Entry
from rlhf.data.sources.columns import mappings
from rlhf.data.sources.dialogues import dialogue_tables
from rlhf.data.sources.files import existing, read_records
from rlhf.data.sources.hub import hub_records, saved_records
from rlhf.data.sources.rows import table_rows
from rlhf.data.sources.text import text_rows
from rlhf.data.sources.trees import tree_tables
from rlhf.data.tables import Row

ReadSource = FileSource | HubSource | DialoguesSource | TreesSource | TextSource


@dataclass(frozen=True)
class Collected:
    """What one source gave."""

    tables: dict[str, list[Row]]
    counts: dict[str, int] = field(default_factory=dict)  # what the reader counted besides its rows


def read_source(source: ReadSource, workspace: Path, limits: LimitsConfig) -> Collected:
    """Read a source; relative paths start at `workspace`. Raises DataError for what cannot be read."""
    path = workspace / source.path
    if isinstance(source, TextSource):
        collected = Collected({"texts": text_rows(path, limits)})
    elif isinstance(source, DialoguesSource):
        collected = Collected(dialogue_tables(_records(source, path, limits), source.criterion, source.path))
    elif isinstance(source, TreesSource):
        collected = Collected(*tree_tables(_records(source, path, limits), source.path))
    else:
        records = read_records(path, limits) if isinstance(source, FileSource) else _records(source, path, limits)
        mapped = mappings(source.table, source.columns, records, source.path)
        collected = Collected({source.table: list(table_rows(source.table, records, mapped))})
    for rows in collected.tables.values():
        for row in rows:
            row["source"] = source_name(source)
    return collected


def local_path(source: ReadSource) -> str | None:
    """The path of a source that lies on this machine, as params.yaml has it; None for the hub."""
    return None if isinstance(source, HubData) and source.revision else source.path


def source_name(source: ReadSource) -> str:
    """What a row says about where it came from: the same for everybody who has the same data, wherever it lies."""
    if isinstance(source, HubData) and source.revision:
        return f"{source.path}@{source.revision[:8]}"
    return "/".join(Path(source.path).parts[-2:])


def _records(source: HubData, path: Path, limits: LimitsConfig) -> list[Entry]:
    """Rows of the hub, of a directory that `datasets` saved, or of a file."""
    if source.revision and source.split:
        return hub_records(source.path, source.revision, source.split, limits)
    return saved_records(path, source.split, limits) if existing(path).is_dir() else read_records(path, limits)
