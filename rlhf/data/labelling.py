"""People who rank answers: tasks go out blind in a sheet, and what comes back is a source that collect reads.

What goes out is kept, so that a sheet may come back whenever people are done, whatever was sampled or trained since. A
ranking of answers stays what it is when the policy that gave them is gone: it is feedback like any other, checked,
split and screened with the rest, and learned from for as long as its file is a source.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from rlhf import durable
from rlhf.data.tables import Prompt, Row
from rlhf.errors import DataError
from rlhf.sheets import ANNOTATOR, Filled, Imported, Task, read_sheet, shown, task_name

TASKS = Path("feedback", "tasks.jsonl")  # in a workspace: what went out
STORE = Path("feedback", "rankings.jsonl")  # and what came back
EXPORT = "rlhf label export"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Different answers of one policy to one prompt, in the order in which people see them."""

    task: str
    prompt: Prompt
    answers: tuple[str, ...]
    policy: str  # the digest of its files

    @property
    def row(self) -> Task:
        """The row of a sheet: the texts by column."""
        texts = {f"answer_{place}": answer for place, answer in enumerate(self.answers, start=1)}
        return {"task": self.task, "prompt": shown(self.prompt), **texts}


def grouped(rows: Iterable[Row], policy: str) -> dict[str, Group]:
    """What there is to rank, by the name of its task, in rows with a `prompt` and its `responses`.

    The order of the answers is drawn, for every task anew and for each the same whenever it is drawn. An answer that
    was sampled twice is shown once, one that holds a NUL, which no row may, not at all. Prompts with less than two
    answers that say something have nothing.
    """
    found = dict[str, Group]()
    for row in rows:
        said = (answer for answer in row["responses"] if answer.strip() and "\0" not in answer)
        answers = {answer.strip(): answer for answer in said}.values()
        if len(answers) > 1:
            task = task_name(row["prompt"], answers)
            drawn = sorted(answers, key=lambda answer: hashlib.sha256(f"{task} {answer}".encode()).digest())
            found[task] = Group(task, row["prompt"], tuple(drawn), policy)
    return found


def columns(groups: Iterable[Group]) -> list[str]:
    """The columns of the sheet: beside each answer its rank, 1 for the best."""
    most = max(len(group.answers) for group in groups)
    return ["task", "prompt", *(f"{name}_{n + 1}" for n in range(most) for name in ("answer", "rank")), ANNOTATOR]


def waiting(groups: Mapping[str, Group], given: Iterable[Row], criterion: str) -> list[Group]:
    """Those that nobody has ranked by the criterion, in their order."""
    ranked = {row["task"] for row in given if row["criterion"] == criterion}
    return [group for task, group in groups.items() if task not in ranked]


def keep_tasks(path: Path, groups: Iterable[Group]) -> None:
    """Add what goes out to what went out before."""
    before = read_tasks(path)
    every = before | {group.task: group for group in groups if group.task not in before}
    if len(every) > len(before):
        durable.write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in every.values()))


def read_tasks(path: Path) -> dict[str, Group]:
    """What has gone out, by the name of its task; nothing where there is no file. Raises DataError."""

    def group(row: Row) -> Group:
        found = Group(**row | {"answers": tuple(row["answers"])})
        if task_name(found.prompt, found.answers) != found.task:
            raise ValueError
        return found

    return {one.task: one for one in _lines(path, group)}


def add_rankings(path: Path, groups: Mapping[str, Group], store: Path, criterion: str) -> Imported:
    """Add the rankings of a sheet, by one criterion, to those of `store`: rows of the table `rankings`, and their task.

    Raises DataError as `read_sheet`, for ranks that do not order the answers, and for a second ranking by the same
    annotator that differs. Nothing is added then.
    """
    before = read_rankings(store)
    given = {_key(row): row for row in before}
    there, known, empty = len(given), 0, 0
    rows = {task: group.row for task, group in groups.items()}
    for row in read_sheet(path, rows, ranks, EXPORT):
        group = groups[row.task["task"]]
        if not any(row.cells.values()):
            empty += 1
            continue
        ranking = {
            "task": group.task,
            "prompt": group.prompt,
            "responses": list(group.answers),
            "ranks": _ranks(row),
            ANNOTATOR: row.annotator,
            "criterion": criterion,
        }
        old = given.setdefault(_key(ranking), ranking)
        if old is not ranking and _by_answer(old) != _by_answer(ranking):
            raise DataError(
                f"{row.where}: {row.annotator} has ranked task {group.task} before, and otherwise. Empty the row, or "
                f"take the ranking of before out of {store}"
            )
        known += old is not ranking
    new = list(given.values())[there:]
    if new:
        durable.write_text(store, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*before, *new]))
    return Imported(len(new), known, empty)


def read_rankings(store: Path) -> list[Row]:
    """The rankings that people have given, none where there is no file. Raises DataError."""

    def ranking(row: Row) -> Row:
        hash(_key(row)), _by_answer(row)
        return row

    return _lines(store, ranking)


def _lines(path: Path, read: Callable[[Row], T]) -> list[T]:
    """What `read` makes of each row of a file that may not be there. Raises DataError, which names the line."""
    found = list[T]()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, start=1):
        try:
            found += [read(json.loads(line))] if line.strip() else []
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(
                f"{path}, line {number} is damaged. Take the file from git; where git has left a conflict in it, keep "
                "the rows of both sides"
            ) from None
    return found


def ranks(task: Task) -> list[str]:
    """The columns of a task's ranks, one beside each answer."""
    return [column.replace("answer", "rank") for column in task if column.startswith("answer_")]


def _ranks(row: Filled) -> list[int]:
    """The rank of each answer, from 1 to the number of answers; equal ranks are a tie. Raises DataError."""
    allowed = {str(rank) for rank in range(1, len(row.cells) + 1)}
    for column, cell in row.cells.items():
        if cell not in allowed:
            said = f"`{cell[:20]}`" if cell else "empty"
            raise DataError(
                f"{row.where}: {column} is {said}. Rank every answer, from 1, the best, to {len(row.cells)}; equals "
                "are a tie"
            )
    return [int(cell) for cell in row.cells.values()]


def _key(row: Row) -> tuple[str, str, str]:
    return row["task"], row["criterion"], row[ANNOTATOR].casefold()


def _by_answer(row: Row) -> Mapping[str, int]:
    return dict(zip(row["responses"], row["ranks"], strict=True))
