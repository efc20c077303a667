"""Where feedback comes from: every source becomes rows of the tables, with what is wrong about a row noted on it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.config.data import DialoguesSource, FileSource, HubData, HubSource, LimitsConfig, TextSource, TreesSource
from rlhf.data.records import Entry, Unreadable
from rlhf.data.sources.columns import mappings
from rlhf.data.sources.dialogues import dialogue_tables
from rlhf.data.sources.files import existing, read_records
from rlhf.data.sources.hub import hub_records, saved_records
from rlhf.data.sources.rows import table_rows
from rlhf.data.sources.text import text_rows
from rlhf.data.sources.trees import tree_tables
from rlhf.data.tables import Row
from rlhf.errors import ConfigError, DataError

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
        records = _records(source, path, limits)
        mapped = mappings(source.table, source.columns, records, source.path)
        collected = Collected({source.table: list(table_rows(source.table, records, mapped, source.path))})
    for rows in collected.tables.values():
        for row in rows:
            row["source"] = source_name(source)
    return collected


def local_path(source: ReadSource) -> str | None:
    """The path of a source that lies on this machine, as params.yaml has it; None for the hub."""
    return None if isinstance(source, HubData) and source.revision else source.path


def source_name(source: ReadSource) -> str:
    """What a row says about where it came from: the same for everybody who has the same data, wherever it lies."""
    split = f":{source.split}" if isinstance(source, HubData) and source.split else ""
    if isinstance(source, HubData) and source.revision:
        return f"{source.path}@{source.revision[:8]}{split}"
    return "/".join(Path(source.path).parts[-2:]) + split


def require_distinct(sources: Iterable[ReadSource]) -> None:
    """Raises ConfigError where different data would bear one name, by which rows of a record are known."""
    found = dict[str, tuple[str, str | None]]()
    for source in sources:
        name, place = source_name(source), (source.path, source.revision if isinstance(source, HubData) else None)
        other = found.setdefault(name, place)
        if other != place:
            raise ConfigError(
                f"collect.sources: {other[0]} and {source.path} would both be named {name}, but the name "
                "identifies the records. Rename one of them"
            )


def _records(source: FileSource | HubData, path: Path, limits: LimitsConfig) -> list[Entry]:
    """Rows of the hub, of a directory that `datasets` saved, or of a file. Raises DataError when none can be read."""
    if isinstance(source, HubData) and source.revision and source.split:
        entries = hub_records(source.path, source.revision, source.split, limits)
    elif isinstance(source, HubData) and existing(path).is_dir():
        entries = saved_records(path, source.split, limits)
    else:
        entries = read_records(path, limits)
    reasons = [entry.reason for entry in entries if isinstance(entry, Unreadable)]
    if reasons and len(reasons) == len(entries):
        said = (f"{reason} ({n:,}, first in row {reasons.index(reason)})" for reason, n in Counter(reasons).items())
        raise DataError(
            f"{source.path}: none of its {len(entries):,} rows can be read: {', '.join(said)}. Write it again "
            "without these, or raise collect.limits.row in params.yaml for rows that are long"
        )
    return entries
