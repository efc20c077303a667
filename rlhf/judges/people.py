"""People as a judge: comparisons go out as tasks of a file, verdicts come back in it, and stay as they were given.

A task shows two answers as A and B, in an order that is drawn for it, and does not say whose they are. It is named
after its texts, so that a verdict counts wherever the same two answers to the same prompt are compared.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlhf import durable
from rlhf.errors import DataError
from rlhf.judges.door import Comparison, Judged, Prompt

WORDS = ("A", "B", "tie")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet's formula begins with
COLUMNS = ("task", "prompt", "answer_a", "answer_b", "winner", "annotator")


@dataclass(frozen=True, slots=True)
class Given:
    """One person's verdict on one task, with the texts as they were shown."""

    task: str
    prompt: str
    answer_a: str
    answer_b: str
    winner: str  # one of WORDS
    annotator: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file brought."""

    verdicts: int  # new ones
    known: int  # that were there before
    empty: int  # tasks without a winner yet


def tasks(comparisons: Iterable[Comparison], seed: int) -> dict[str, dict[str, str]]:
    """A row for each pair of different answers, by its task, in an order that says nothing of whose they are."""
    found = dict[str, dict[str, str]]()
    for one in comparisons:
        if one.first == one.second:
            continue
        name = task_name(one)
        turned = int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest(), 16) % 2
        a, b = sorted((one.first, one.second), reverse=bool(turned))
        found[name] = {"task": name, "prompt": shown(one.prompt), "answer_a": a, "answer_b": b}
    return dict(sorted(found.items()))


def write_tasks(path: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    """Write tasks with an empty winner as csv, or as jsonl, by the name of the file. Raises DataError for another, and
    for a file that is there: people may have written into it."""
    rows, kind = [{**row, "winner": "", "annotator": ""} for row in found.values()], _kind(path)
    if path.exists():
        raise DataError(f"{path} exists, and may hold verdicts. Import it first, or name another file")
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone CR ends a row else
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        durable.write_text(path, "\ufeff" + text.getvalue())  # by which spreadsheets know UTF-8
    else:
        durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def add_verdicts(path: Path, found: Mapping[str, Mapping[str, str]], store: Path) -> Imported:
    """Add the verdicts of a file that was exported to those of `store`.

    Raises DataError, which names the file and the line, for a task that is not among `found`, for a text that changed,
    for a word that is not a verdict, for a verdict without annotator, and for a second one of the same annotator that
    differs. Nothing is added then.
    """
    before = read_verdicts(store)
    given = {(one.task, one.annotator.casefold()): one for one in before}
    there, known, empty = len(given), 0, 0
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        task = found.get(row["task"])
        if task is None:
            raise DataError(f"{where}: the evaluation has no task `{row['task']}`. Export the tasks anew")
        if changed := [name for name, text in task.items() if row[name].split() != text.split()]:
            raise DataError(f"{where}: {', '.join(changed)} of task {row['task']} is not what was exported")
        if not row["winner"].strip():
            empty += 1
            continue
        verdict = Given(**{**row, **task, "winner": _word(row["winner"], where), "annotator": row["annotator"].strip()})
        if not verdict.annotator:
            raise DataError(f"{where}: a verdict without annotator. Write in that column who gave it")
        old = given.setdefault((verdict.task, verdict.annotator.casefold()), verdict)
        if old is not verdict and old.winner != verdict.winner:
            raise DataError(f"{where}: {verdict.annotator} has judged task {verdict.task} before, as {old.winner}")
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
        verdicts = by_task.get(task_name(comparison), [])
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
    """Whether two annotators of one task said the same (1 or 0), for every two of each, with the task."""
    by_task: dict[str, list[str]] = {}
    for one in given:
        by_task.setdefault(one.task, []).append(one.winner)
    pairs = [(float(a == b), task) for task, said in by_task.items() for a, b in combinations(said, 2)]
    return [same for same, _ in pairs], [task for _, task in pairs]


def task_name(comparison: Comparison) -> str:
    """The name of a task: the same whichever answer is the first."""
    content = [shown(comparison.prompt), *sorted((comparison.first, comparison.second))]
    return f"t-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"  # no number to a spreadsheet


def shown(prompt: Prompt) -> str:
    """A conversation as people read it."""
    return "\n\n".join(f"{said['role']}: {said['content']}" for said in prompt)


def _point(one: Given, comparison: Comparison) -> float:
    if one.winner == "tie":
        return 0.5
    return float((one.answer_a if one.winner == "A" else one.answer_b) == comparison.first)


def _word(text: str, where: str) -> str:
    for word in WORDS:
        if text.strip().lower() == word.lower():
            return word
    raise DataError(f"{where}: `{text.strip()}` is not a verdict. Write {', '.join(WORDS[:-1])} or {WORDS[-1]}")


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a file with their lines, every column a text. Raises DataError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. `rlhf judge export {path}` writes the tasks there") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8. Save it with that encoding") from None
    rows = list[tuple[int, dict[str, Any]]]()
    if _kind(path) == "csv":
        header = text.partition("\n")[0]
        between = max(",;\t", key=header.count)  # spreadsheets of some countries write others than commas
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=between)
        try:
            rows = [(reader.line_num, {name: _said(value) for name, value in row.items()}) for row in reader]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: this is no row of a csv ({error})") from None
    else:
        for line, entry in enumerate(text.split("\n"), start=1):
            try:
                rows += [(line, json.loads(entry))] if entry.strip() else []
            except (ValueError, RecursionError):
                raise DataError(f"{path}, line {line}: this is not JSON") from None
    if not rows:
        raise DataError(f"{path} holds no task. `rlhf judge export` writes them to a file of another name")
    for line, row in rows:
        absent = [name for name in COLUMNS if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if absent:
            raise DataError(f"{path}, line {line}: no text in {', '.join(absent)}. Keep every column of the export")
    return [(line, {name: row[name] for name in COLUMNS}) for line, row in rows]


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula, nor its own apostrophe for that of another."""
    return f"'{text}" if text.startswith(("'", *FORMULA)) else text


def _said(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and cell[1:].startswith(("'", *FORMULA)) else cell


def _kind(path: Path) -> str:
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(f"{path}: tasks are written as .csv or .jsonl. Give the file one of these endings")
    return path.suffix[1:]
