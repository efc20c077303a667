"""Files that people fill in, csv for a spreadsheet or jsonl: a task a row, with texts to read and cells to write in.

A task is named after its texts, and does not say which model wrote them. What comes back with other texts is refused.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf import durable
from rlhf.errors import DataError

Task = Mapping[str, str]  # `task`, its name, and the texts that are shown, by column

ANNOTATOR = "annotator"  # the column in which people write who they are
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet's formula begins with


@dataclass(frozen=True, slots=True)
class Imported:
    """What a sheet brought."""

    new: int
    known: int  # said before, by the same annotator
    empty: int  # tasks that nobody has filled in yet


@dataclass(frozen=True, slots=True)
class Filled:
    """A row of a sheet that was read back, whose task is known and unchanged."""

    where: str  # file and line, for messages
    task: Task
    cells: Mapping[str, str]  # what people wrote, by column; "" where they wrote nothing
    annotator: str  # "" where they wrote nothing


def task_name(prompt: Sequence[Mapping[str, str]], answers: Iterable[str]) -> str:
    """The name of a task: the same in whichever order its answers are shown."""
    content = json.dumps([shown(prompt), *sorted(answers)])
    return f"t-{hashlib.sha256(content.encode()).hexdigest()[:16]}"  # no number to a spreadsheet


def shown(prompt: Sequence[Mapping[str, str]]) -> str:
    """A conversation as people read it."""
    return "\n\n".join(f"{said['role']}: {said['content']}" for said in prompt)


def require_new(path: Path) -> None:
    """Raises DataError for a name that no sheet has, and for a file that is there: people may have written into it."""
    _kind(path)
    if path.exists():
        raise DataError(f"{path} exists, and may have been filled in. Import it first, or name another file")


def write_sheet(path: Path, tasks: Iterable[Task], columns: Sequence[str]) -> None:
    """Write tasks as csv, or as jsonl, by the name of the file; a column that a task does not have is empty. Raises as
    `require_new`."""
    require_new(path)
    rows = [{name: task.get(name, "") for name in columns} for task in tasks]
    if _kind(path) == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone CR ends a row else
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        durable.write_text(path, "\ufeff" + text.getvalue())  # by which spreadsheets know UTF-8
    else:
        durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_sheet(
    path: Path, tasks: Mapping[str, Task], to_fill: Callable[[Task], Sequence[str]], export: str
) -> Iterator[Filled]:
    """The rows of a sheet, from the first to the last.

    `tasks` are those that there are, by name; `to_fill` gives the columns that people write in beside a task, but for
    their name; `export` is the command that writes the sheet, for messages. Raises DataError, which names the file and
    the line, for a task that is not among them, and, where people have written, for a text that changed, and for what
    nobody has signed.
    """
    for line, row in _rows(path, export):
        where = f"{path}, line {line}"
        (name,) = _texts(row, ["task"], where)
        if (task := tasks.get(name)) is None:
            raise DataError(
                f"{where}: there is no task `{name}` here. Take the sheet back to the workspace that wrote it, or "
                f"export the tasks anew: {export}"
            )
        columns = to_fill(task)
        *said, annotator = (text.strip() for text in _texts(row, [*columns, ANNOTATOR], where))
        if not any(said):
            yield Filled(where, task, dict.fromkeys(columns, ""), "")
            continue
        found = _texts(row, list(task), where)
        if changed := [
            column for column, text in zip(task, found, strict=True) if text.split() != task[column].split()
        ]:
            raise DataError(f"{where}: {', '.join(changed)} of task {name} is not what was exported")
        if not annotator:
            raise DataError(f"{where}: nobody has signed this. Write into the column {ANNOTATOR} who says it")
        if not annotator.isprintable():
            raise DataError(f"{where}: the column {ANNOTATOR} holds {annotator[:60]!r}, which is no name")
        yield Filled(where, task, dict(zip(columns, said, strict=True)), annotator)


def _texts(row: Any, columns: Sequence[str], where: str) -> list[str]:
    """What stands in some columns of a row. Raises DataError, which names those that have nothing."""
    absent = [name for name in columns if not isinstance(row, dict) or not isinstance(row.get(name), str | int)]
    if absent:
        raise DataError(f"{where}: no text in {', '.join(absent)}. Keep every column of the export")
    return [str(row[name]) for name in columns]


def _rows(path: Path, export: str) -> list[tuple[int, Any]]:
    """The rows of a file with their lines, as they stand there."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. `{export} {path}` writes the tasks there") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8. Save it with that encoding; spreadsheets call it CSV UTF-8") from None
    rows = list[tuple[int, Any]]()
    if _kind(path) == "csv":
        header = text.partition("\n")[0]
        between = max(",;\t", key=header.count)  # spreadsheets of some countries write others than commas
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=between, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise csv.Error("more cells than columns: a text that holds a separator stands in quotes")
                if any(row.values()):  # spreadsheets leave blank rows
                    rows.append((reader.line_num, {name: _said(value) for name, value in row.items()}))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: this is no row of a csv ({error})") from None
    else:
        for line, entry in enumerate(text.split("\n"), start=1):
            try:
                rows += [(line, json.loads(entry))] if entry.strip() else []
            except (ValueError, RecursionError):
                raise DataError(f"{path}, line {line}: this is not JSON") from None
    if not rows:
        raise DataError(f"{path} holds no task. `{export}` writes them to a file of another name")
    return rows


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula, nor its own apostrophe for that of another."""
    return f"'{text}" if text.startswith(("'", *FORMULA)) else text


def _said(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and cell[1:].startswith(("'", *FORMULA)) else cell


def _kind(path: Path) -> str:
    if (ending := path.suffix.lower()) not in (".csv", ".jsonl"):
        raise DataError(f"{path}: tasks are written as .csv or .jsonl. Give the file one of these endings")
    return ending[1:]
