"""People who rank the samples: tasks go out blind in a sheet, and what comes back is a source that collect reads.

A ranking of answers stays what it is when the policy that gave them is gone. So it is feedback like any other: checked,
split and screened with the rest, and learned from for as long as its file is a source.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable
from rlhf.data.tables import Prompt, Row
from rlhf.errors import DataError
from rlhf.sheets import ANNOTATOR, Filled, Imported, Task, read_sheet, shown, task_name

STORE = Path("feedback", "rankings.jsonl")  # in a workspace
EXPORT = "rlhf label export"


@dataclass(frozen=True, slots=True)
class Sampled:
    """Different answers to one prompt, in the order in which people see them."""

    name: str
    prompt: Prompt
    answers: tuple[str, ...]

    @property
    def task(self) -> Task:
        """The task of a sheet: the texts by column."""
        texts = {f"answer_{place}": answer for place, answer in enumerate(self.answers, start=1)}
        return {"task": self.name, "prompt": shown(self.prompt), **texts}


def sampled(rows: Iterable[Row], seed: int) -> dict[str, Sampled]:
    """What there is to rank in rows of `data/samples`, by the name of its task; the order of the answers is drawn.

    An answer that was drawn twice is shown once. Prompts with less than two answers that say something have nothing.
    """
    found = dict[str, Sampled]()
    for row in rows:
        answers = {answer.strip(): answer for answer in row["responses"] if answer.strip()}.values()
        if len(answers) > 1:
            name = task_name(row["prompt"], answers)
            drawn = sorted(answers, key=lambda answer: hashlib.sha256(f"{seed} {name} {answer}".encode()).digest())
            found[name] = Sampled(name, row["prompt"], tuple(drawn))
    return found


def columns(found: Mapping[str, Sampled]) -> list[str]:
    """The columns of the sheet: beside each answer its rank, 1 for the best."""
    most = max(len(sample.answers) for sample in found.values())
    return ["task", "prompt", *(f"{name}_{n + 1}" for n in range(most) for name in ("answer", "rank")), ANNOTATOR]


def waiting(found: Mapping[str, Sampled], given: Iterable[Row], criterion: str) -> list[Sampled]:
    """The samples that nobody has ranked by the criterion, in their order."""
    ranked = {row["task"] for row in given if row["criterion"] == criterion}
    return [sample for name, sample in found.items() if name not in ranked]


def add_rankings(path: Path, found: Mapping[str, Sampled], store: Path, criterion: str) -> Imported:
    """Add the rankings of a sheet, by one criterion, to those of `store`: rows of the table `rankings`, and their task.

    Raises DataError as `read_sheet`, for ranks that do not order the answers, and for a second ranking by the same
    annotator that differs. Nothing is added then.
    """
    before = read_rankings(store)
    given = {_key(row): row for row in before}
    there, known, empty = len(given), 0, 0
    tasks = {name: sample.task for name, sample in found.items()}
    for row in read_sheet(path, tasks, columns(found), EXPORT):
        sample = found[row.task["task"]]
        if not any(row.cells.values()):
            empty += 1
            continue
        ranking = {
            "task": sample.name,
            "prompt": sample.prompt,
            "responses": list(sample.answers),
            "ranks": _ranks(row, len(sample.answers)),
            ANNOTATOR: row.annotator,
            "criterion": criterion,
        }
        old = given.setdefault(_key(ranking), ranking)
        if old is not ranking and _by_answer(old) != _by_answer(ranking):
            raise DataError(f"{row.where}: {row.annotator} has ranked task {sample.name} before, and otherwise")
        known += old is not ranking
    new = list(given.values())[there:]
    if new:
        durable.write_text(store, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*before, *new]))
    return Imported(len(new), known, empty)


def read_rankings(store: Path) -> list[Row]:
    """The rankings that people have given, none where there is no file. Raises DataError."""
    try:
        rows = [json.loads(line) for line in store.read_text(encoding="utf-8").split("\n") if line]
        _ = [(_key(row), _by_answer(row)) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{store} is damaged. Take it from git, or import the sheets of its rankings again") from None
    return rows


def _ranks(row: Filled, answers: int) -> list[int]:
    """The rank of each answer, from 1 to the number of answers; equal ranks are a tie. Raises DataError."""
    ranks = []
    beside = ((column, cell) for column, cell in row.cells.items() if column.startswith("rank_"))
    for place, (column, cell) in enumerate(beside):
        if place >= answers:
            if cell:
                raise DataError(f"{row.where}: {column} is `{cell}`, and there is no answer {place + 1}. Empty it")
        elif not cell.isdecimal() or not 1 <= int(cell) <= answers:
            said = f"`{cell}`" if cell else "empty"
            raise DataError(
                f"{row.where}: {column} is {said}. Rank every answer, from 1, the best, to {answers}; equals are a tie"
            )
        else:
            ranks.append(int(cell))
    return ranks


def _key(row: Row) -> tuple[str, str, str]:
    return row["task"], row["criterion"], row[ANNOTATOR].casefold()


def _by_answer(row: Row) -> Mapping[str, int]:
    return dict(zip(row["responses"], row["ranks"], strict=True))
