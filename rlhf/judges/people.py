"""People as a judge: comparisons go out as tasks of a file, verdicts come back in it, and stay as they were given.

A task shows two answers as A and B, in an order that is drawn for it, and does not say whose they are. It is named
after its texts, so that a verdict counts wherever the same two answers to the same prompt are compared.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rlhf import durable
from rlhf.errors import DataError
from rlhf.judges.door import Comparison, Judged
from rlhf.sheets import ANNOTATOR, Imported, Task, read_sheet, shown, task_name, write_sheet

WORDS = ("A", "B", "tie")
COLUMNS = ("task", "prompt", "answer_a", "answer_b", "winner", ANNOTATOR)
EXPORT = "rlhf judge export"


@dataclass(frozen=True, slots=True)
class Given:
    """One person's verdict on one task, with the texts as they were shown."""

    task: str
    prompt: str
    answer_a: str
    answer_b: str
    winner: str  # one of WORDS
    annotator: str


def tasks(comparisons: Iterable[Comparison]) -> dict[str, dict[str, str]]:
    """A row for each pair of different answers, by its task, in an order that says nothing of whose they are, and is
    the same for a task whenever it is drawn."""
    found = dict[str, dict[str, str]]()
    for one in comparisons:
        if one.first == one.second:
            continue
        name = name_of(one)
        turned = hashlib.sha256(name.encode()).digest()[0] % 2 == 1
        a, b = sorted((one.first, one.second), reverse=turned)
        found[name] = {"task": name, "prompt": shown(one.prompt), "answer_a": a, "answer_b": b}
    return dict(sorted(found.items()))


def write_tasks(path: Path, found: Mapping[str, Task]) -> None:
    """Write tasks with an empty winner. Raises DataError as `write_sheet`."""
    write_sheet(path, found.values(), COLUMNS)


def add_verdicts(path: Path, found: Mapping[str, Task], store: Path) -> Imported:
    """Add the verdicts of a file that was exported to those of `store`.

    Raises DataError as `read_sheet`, for a word that is not a verdict, and for a second verdict of the same annotator
    that differs. Nothing is added then.
    """
    before = read_verdicts(store)
    given = {(one.task, one.annotator.casefold()): one for one in before}
    there, known, empty = len(given), 0, 0
    for row in read_sheet(path, found, lambda _: ["winner"], EXPORT):
        if not row.cells["winner"]:
            empty += 1
            continue
        verdict = Given(**row.task, winner=_word(row.cells["winner"], row.where), annotator=row.annotator)
        old = given.setdefault((verdict.task, verdict.annotator.casefold()), verdict)
        if old is not verdict and _better(old) != _better(verdict):
            raise DataError(f"{row.where}: {verdict.annotator} has judged task {verdict.task} before, as {old.winner}")
        known += old is not verdict
    new = list(given.values())[there:]
    if new:
        lines = (json.dumps(asdict(one), ensure_ascii=False, sort_keys=True) + "\n" for one in [*before, *new])
        durable.write_text(store, "".join(lines))
    return Imported(len(new), known, empty)


def read_verdicts(store: Path) -> list[Given]:
    """The verdicts of a workspace, none where nobody has given one. Raises DataError."""
    try:
        return [Given(**json.loads(line)) for line in store.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        raise DataError(f"{store} is damaged. Take it from git, or import the files of its verdicts again") from None


def by_people(given: Sequence[Given], comparisons: Sequence[Comparison]) -> Judged:
    """What most of those who judged a comparison say, a tie where no verdict has more than half of theirs.

    Answers that are the same are a tie, and nobody is asked. Each person is asked in one order.
    """
    by_task: dict[str, list[Given]] = {}
    for one in given:
        by_task.setdefault(one.task, []).append(one)
    n = len(comparisons)
    judged = Judged(*(np.full(n, value) for value in (np.nan, np.nan, 0.0, 0.0)))
    for place, comparison in enumerate(comparisons):
        verdicts = by_task.get(name_of(comparison), [])
        if comparison.first == comparison.second:
            judged.points[place] = 0.5
        elif verdicts:
            sides = Counter(_point(one, comparison) for one in verdicts)
            point, votes = sides.most_common(1)[0]
            judged.points[place] = point if 2 * votes > len(verdicts) else 0.5
            judged.first_place[place] = sum(one.winner == "A" for one in verdicts)
            judged.decided[place] = sum(one.winner != "tie" for one in verdicts)
    return judged


def agreements(given: Iterable[Given]) -> tuple[list[float], list[str]]:
    """Whether two annotators of one task said the same (1 or 0), for every two of each, with the task's prompt."""
    by_task: dict[str, list[Given]] = {}
    for one in given:
        by_task.setdefault(one.task, []).append(one)
    pairs = [both for said in by_task.values() for both in combinations(said, 2)]
    return [float(_better(one) == _better(other)) for one, other in pairs], [one.prompt for one, _ in pairs]


def name_of(comparison: Comparison) -> str:
    """The name of a task: the same whichever answer is the first."""
    return task_name(comparison.prompt, (comparison.first, comparison.second))


def _better(one: Given) -> str | None:
    """The answer that was found better, None where neither was."""
    return {"A": one.answer_a, "B": one.answer_b}.get(one.winner)


def _point(one: Given, comparison: Comparison) -> float:
    better = _better(one)
    return 0.5 if better is None else float(better == comparison.first)


def _word(text: str, where: str) -> str:
    for word in WORDS:
        if text.lower() == word.lower():
            return word
    raise DataError(f"{where}: `{text}` is not a verdict. Write {', '.join(WORDS[:-1])} or {WORDS[-1]}")
