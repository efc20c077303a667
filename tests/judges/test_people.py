"""People as a judge: tasks go out blind, verdicts come back checked, and what nobody judged has no verdict."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from rlhf.cli import app
from rlhf.config.editing import set_params
from rlhf.config.gate import GateConfig
from rlhf.errors import DataError, Exit
from rlhf.gate.checks import run_checks
from rlhf.gate.decision import assess, decide
from rlhf.gate.evidence import Evidence
from rlhf.judges.door import Comparison, between
from rlhf.judges.people import (
    Given,
    add_verdicts,
    agreements,
    by_people,
    name_of,
    read_verdicts,
    tasks,
    write_tasks,
)
from rlhf.manifest import sha256, write_manifest
from rlhf.sheets import Imported
from tests.conftest import copy_pipeline
from tests.gate.conftest import JUDGING

PEOPLE = "evaluate.judge={kind: people, verdicts: feedback/verdicts.jsonl, sha256: null}"


SPREAD = ("=", "'@", "'")  # what a spreadsheet takes for a formula, and its sign that something is none


def made_rows(n: int = 12, champion: bool = True) -> list[dict[str, Any]]:
    """Rows of an evaluation: texts with what a spreadsheet and a page could break; the first answers are equal."""
    return [
        {
            "prompt_id": f"p{index}",
            "prompt": [{"role": "user", "content": f'Question {index}, "quoted";\nsecond line\u2028third'}],
            "policy_response": f"policy, {index}" if index else "same",
            "sft_response": f"{SPREAD[index % 3]}sft {index}" if index else "same",
            **({"champion_response": f"champion {index}"} if champion else {}),
        }
        for index in range(n)
    ]


def fill(path: Path, choose: Callable[[dict[str, str]], str], annotator: str = "ann") -> None:
    """Do a person's work on a file that was exported."""
    rows = read(path)
    for row in rows:
        row |= {"winner": choose(row), "annotator": annotator}
    write(path, rows)


def read(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))  # lines end as a spreadsheet ends them
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def policy_wins(row: dict[str, str]) -> str:
    return "A" if row["answer_a"].startswith("policy") else "B"


def rlhf(*arguments: object) -> Result:
    """`rlhf ARGUMENTS` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace in which nothing has run."""
    directory = tmp_path / "workspace"
    directory.mkdir()
    copy_pipeline(directory)
    return directory


def evaluate(workspace: Path, rows: list[dict[str, Any]]) -> None:
    """Leave evaluations that stand, to be judged by people."""
    set_params(workspace / "params.yaml", [PEOPLE])
    for name in ("ppo", "dpo"):
        path = workspace / f"reports/evaluate/{name}/rows/rows.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        write_manifest(path.parent)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_tasks_go_out_blind_and_verdicts_come_back(ending: str, workspace: Path, tmp_path: Path) -> None:
    file, store, params = tmp_path / f"tasks.{ending}", workspace / "feedback/verdicts.jsonl", workspace / "params.yaml"
    evaluate(workspace, made_rows())
    assert rlhf("judge", "export", file, "-C", workspace).output.startswith("23 comparisons are in")
    rows = read(file)
    assert list(rows[0]) == ["task", "prompt", "answer_a", "answer_b", "winner", "annotator"]
    first, second = ({row[name].split(",")[0].split(" ")[0] for row in rows} for name in ("answer_a", "answer_b"))
    for model in ("policy", "sft", "champion"):
        assert all(any(model in text for text in place) for place in (first, second)), "each stands in either place"
    formula = "'=sft" if ending == "csv" else "=sft"  # no spreadsheet takes it for one
    assert formula in first | second
    assert [row["task"] for row in rows] == sorted(row["task"] for row in rows), "in no order of models or prompts"

    fill(file, lambda row: policy_wins(row) if row["answer_a"] < row["answer_b"] else "")
    said = rlhf("judge", "import", file, "-C", workspace).output
    judged = sum(row["winner"] != "" for row in read(file))
    assert 0 < judged < 23
    assert said.startswith(f"{judged} new verdicts, 0 known before, {23 - judged} tasks left empty. ")
    assert f"{23 - judged} of 23 comparisons wait" in " ".join(said.split())
    assert yaml.safe_load(params.read_text())["evaluate"]["judge"]["sha256"] == sha256(store)

    fill(file, policy_wins)
    assert rlhf("judge", "import", file, "-C", workspace).output.startswith(f"{23 - judged} new verdicts, {judged} kn")
    assert yaml.safe_load(params.read_text())["evaluate"]["judge"]["sha256"] == sha256(store)
    for opponent, points in (("sft", [0.5, *[1.0] * 11]), ("champion", [0.0, *[1.0] * 11])):
        assert by_people(read_verdicts(store), between(made_rows(), opponent)).points.tolist()[1:] == points[1:]


def spoil_task(row: dict[str, str]) -> None:
    row["task"] = "0" * 16


def spoil_text(row: dict[str, str]) -> None:
    row["answer_a"] += " and more"


def spoil_order(row: dict[str, str]) -> None:
    row["answer_a"], row["answer_b"] = row["answer_b"], row["answer_a"]


def spoil_word(row: dict[str, str]) -> None:
    row["winner"] = "first"


def spoil_annotator(row: dict[str, str]) -> None:
    row["annotator"] = " "


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_task, "there is no task `0000000000000000`"),
        (spoil_text, "answer_a of task .* is not what was exported"),
        (spoil_order, "answer_a, answer_b of task .* is not what was exported"),
        (spoil_word, "`first` is not a verdict. Write A, B or tie"),
        (spoil_annotator, "nobody has signed this"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_added(
    spoil: Callable[[dict[str, str]], None], message: str, ending: str, tmp_path: Path
) -> None:
    found = tasks(between(made_rows(), "sft"))
    file, store = tmp_path / f"tasks.{ending}", tmp_path / "verdicts.jsonl"
    write_tasks(file, found)
    fill(file, policy_wins)
    rows = read(file)
    spoil(rows[2])
    write(file, rows)
    line = 4 * 2 + 1 + 1 if ending == "csv" else 3  # texts of two lines, below a header
    with pytest.raises(DataError, match=rf"line \d+: .*{message}") as told:
        add_verdicts(file, found, store)
    assert ending == "csv" or f"line {line}:" in str(told.value)
    assert not store.exists()


@pytest.mark.parametrize("between_fields", [",", ";", "\t"])
def test_whatever_a_model_wrote_comes_back_from_a_sheet(between_fields: str, tmp_path: Path) -> None:
    """By whichever character a spreadsheet parts the columns."""
    odd = ["one\rline", "nul\0", "two\u2028lines\x85", 'a "quote", and; more', "=1+1", "'tick", "tab\there", "\ufeff"]
    prompt = [{"role": "user", "content": "what\ris it?"}]
    found = tasks([Comparison("p", prompt, text, "plain") for text in odd])
    file, store = tmp_path / "tasks.csv", tmp_path / "verdicts.jsonl"
    write_tasks(file, found)
    assert add_verdicts(file, found, store) == Imported(0, 0, len(odd))
    rows = read(file)
    with file.open("w", newline="", encoding="utf-8") as sheet:
        writer = csv.DictWriter(sheet, list(rows[0]), delimiter=between_fields)
        writer.writeheader()
        writer.writerows(row | {"winner": "A", "annotator": "ann"} for row in rows)
    assert add_verdicts(file, found, store).new == len(odd)
    given = read_verdicts(store)
    assert {one.answer_a for one in given} | {one.answer_b for one in given} == {*odd, "plain"}


def test_a_sheet_without_tasks_is_refused(tmp_path: Path) -> None:
    for name in ("tasks.csv", "tasks.jsonl"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match=f"{name} holds no task"):
            add_verdicts(tmp_path / name, {}, tmp_path / "verdicts.jsonl")


def test_a_person_judges_a_task_once(tmp_path: Path) -> None:
    found = tasks(between(made_rows(), "sft"))
    file, store = tmp_path / "tasks.jsonl", tmp_path / "verdicts.jsonl"
    write_tasks(file, found)
    fill(file, policy_wins)
    assert add_verdicts(file, found, store).new == 11
    before = store.read_bytes()
    assert add_verdicts(file, found, store).known == 11
    fill(file, lambda row: "tie")
    with pytest.raises(DataError, match=r"line 1: ann has judged task t-\w+ before, as [AB]"):
        add_verdicts(file, found, store)
    fill(file, lambda row: "tie", annotator="Ann")
    with pytest.raises(DataError, match=r"line 1: Ann has judged task t-\w+ before, as [AB]"):
        add_verdicts(file, found, store)
    assert store.read_bytes() == before
    store.write_bytes(before.replace(b'"ann"', b'"ANN"'))
    fill(file, policy_wins)
    assert add_verdicts(file, found, store).known == 11, "whichever of the two was there first"
    by_hand = before + before.replace(b'"ann"', b'"ANN"')
    store.write_bytes(by_hand)
    fill(file, lambda row: " TIE ", annotator="bob")
    assert add_verdicts(file, found, store).new == 11
    assert store.read_bytes().startswith(by_hand), "what was given stays as it was"
    assert len(read_verdicts(store)) == 33


@pytest.mark.parametrize(
    ("said", "points"),
    [
        ("", np.nan),
        ("f", 1.0),
        ("s", 0.0),
        ("t", 0.5),
        ("fs", 0.5),
        ("ffs", 1.0),
        ("fst", 0.5),
        ("fftt", 0.5),
        ("fftts", 0.5),
    ],
)
def test_the_majority_of_the_annotators_counts_and_an_even_number_is_a_tie(said: str, points: float) -> None:
    one = Comparison("p", [{"role": "user", "content": "?"}], "x", "y")
    words = {"f": ("y", "x", "B"), "s": ("x", "y", "B"), "t": ("x", "y", "tie")}
    given = [Given(name_of(one), "?", *words[letter], annotator=str(n)) for n, letter in enumerate(said)]
    np.testing.assert_array_equal(by_people(given, [one]).points, [points])
    np.testing.assert_array_equal(by_people(given, [one.turned]).points, [1 - points])
    judged = by_people(given, [one])
    assert judged.decided.tolist() == [len(said) - said.count("t")]
    assert judged.first_place.tolist() == [0]


def test_annotators_of_one_task_agree_or_not() -> None:
    """In whichever order the answers were shown. Tasks against SFT and against the champion may share a prompt."""
    given = [
        Given("1", "why?", "x", "y", "A", "ann"),
        Given("1", "why?", "y", "x", "B", "bob"),
        Given("1", "why?", "x", "y", "B", "cy"),
        Given("2", "why?", "x", "z", "tie", "ann"),
        Given("2", "why?", "z", "x", "tie", "bob"),
        Given("3", "how?", "x", "z", "tie", "ann"),
    ]
    assert agreements(given) == ([1.0, 0.0, 0.0, 1.0], ["why?"] * 4)


def by_hand(good: Evidence, waiting: int) -> Evidence:
    points = np.where(np.arange(400) < waiting, np.nan, good.rows["points_sft"])
    judging = {**JUDGING, "asked": "one order", "consistency": None, "a_a": None}
    wins = {"value": float(np.nan_to_num(points).mean())}
    values = {**good.evaluation, "judge": "people", "judging": judging, "win_rate": wins}
    return replace(good, evaluation=values, rows={**good.rows, "points_sft": points})


def test_the_gate_waits_for_people_and_says_how_many_comparisons_wait(good: Evidence, limits: GateConfig) -> None:
    allowing = limits.model_copy(update={"may_be_unmeasured": ["judge_consistent", "judge_a_a"]})
    waiting = assess(by_hand(good, 120), allowing)
    sentence = decide([waiting], "people", None, 0).sentence
    assert waiting.decision == "INCONCLUSIVE"
    assert "leaves open judge_complete (about 120 prompts would settle it)" in sentence
    named = {check.name: check for check in waiting.checks}
    assert named["prompts"].passed, "verdicts may wait, prompts are there"
    assert named["better_than_sft"].reason == "120 of 400 comparisons with sft wait for people", "no list may name it"
    assert assess(by_hand(good, 400), allowing).decision == "INCONCLUSIVE"
    done = assess(by_hand(good, 0), allowing)
    assert done.decision == "PROMOTE"
    assert "judged by people" in decide([done], "people", None, 0).sentence


def test_people_who_are_asked_once_do_not_pass_for_consistent(good: Evidence, limits: GateConfig) -> None:
    outcomes = {check.name: check for check in run_checks(by_hand(good, 0), limits)}
    assert outcomes["judge_consistent"].outcome == "unmeasured"
    assert "asked once" in outcomes["judge_consistent"].reason
    assert outcomes["judge_a_a"].outcome == "unmeasured"
    assert assess(by_hand(good, 0), limits).decision == "INCONCLUSIVE"


def test_without_an_evaluation_or_people_there_is_nothing_to_do(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    nothing = rlhf("judge", "export", file, "-C", workspace)
    assert (nothing.exit_code, "holds no evaluation" in nothing.stderr) == (Exit.DATA, True)
    other = rlhf("judge", "import", file, "-C", workspace)
    assert (other.exit_code, "evaluate.judge is of kind gold" in other.stderr) == (Exit.CONFIG, True)
    evaluate(workspace, made_rows(champion=False))
    absent = rlhf("judge", "import", file, "-C", workspace)
    assert (absent.exit_code, f"{file} does not exist" in absent.stderr) == (Exit.DATA, True)
    assert rlhf("judge", "export", file.with_suffix(".xlsx"), "-C", workspace).exit_code == Exit.DATA
    assert rlhf("judge", "export", file, "-C", workspace).stdout.startswith("11 comparisons")
    set_params(workspace / "params.yaml", ["evaluate.judge={kind: referee}"])
    early = rlhf("judge", "export", tmp_path / "early.csv", "-C", workspace).stdout
    assert "The judge is referee as yet; verdicts are read once it is people: rlhf run -S" in early
    answers = workspace / "reports/evaluate/dpo/rows/rows.parquet"
    answers.write_bytes(answers.read_bytes()[:-1])
    damaged = rlhf("judge", "export", file, "-C", workspace)
    assert (damaged.exit_code, str(answers) in damaged.stderr) == (Exit.DATA, True)


def test_a_line_that_is_nested_beyond_reading_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("\n" + "[" * 9999)
    with pytest.raises(DataError, match="line 2: this is not JSON"):
        add_verdicts(tmp_path / "tasks.jsonl", {}, tmp_path / "verdicts.jsonl")
