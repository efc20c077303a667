"""People who rank the samples: tasks go out blind, rankings come back checked, and collect reads them as feedback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.config.data import FileSource, LimitsConfig
from rlhf.config.editing import set_params
from rlhf.data.labelling import (
    STORE,
    TASKS,
    Group,
    add_rankings,
    columns,
    grouped,
    keep_tasks,
    read_rankings,
    read_tasks,
)
from rlhf.data.sources import read_source
from rlhf.errors import DataError, Exit
from rlhf.manifest import digest, write_manifest
from rlhf.models.loading import save_model
from rlhf.sheets import Imported, write_sheet
from tasks.label import left_unranked
from tests.algorithms.tiny import tiny_policy, tiny_tokenizer
from tests.conftest import copy_pipeline
from tests.judges.test_people import read, rlhf, write

Cells = dict[str, str]


def made_samples(n: int = 6) -> list[dict[str, Any]]:
    """Rows of data/samples, whose answers say which is better: the last letter tells."""
    answers = [["=one a", "two, b", "'three c"], ["x a", "x a ", "", "y b"], ["same", " same"]]
    return [
        {
            "prompt": [{"role": "user", "content": f'Question "{index}";\nnext\u2028line'}],
            "responses": answers[index % 3],
        }
        for index in range(n)
    ]


def sample(workspace: Path, rows: list[dict[str, Any]]) -> None:
    """What the stage sample leaves."""
    directory = workspace / "data/samples"
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), directory / "samples.parquet")
    receipt = {"key": "k", "stage": "sample", "inputs": {"models/sft": "sft"}}
    (directory / "receipt.json").write_text(json.dumps(receipt))
    write_manifest(directory)


def rank(row: Cells) -> Cells:
    """A person's work: the answer with the earlier last letter is better."""
    answers = {name: text.strip() for name, text in row.items() if name.startswith("answer_") and text}
    order = sorted(answers, key=lambda name: answers[name][-1])
    return row | {name.replace("answer", "rank"): str(order.index(name) + 1) for name in order} | {"annotator": "ann"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that has samples."""
    directory = tmp_path / "workspace"
    directory.mkdir()
    copy_pipeline(directory)
    sample(directory, made_samples())
    return directory


@pytest.fixture
def found() -> dict[str, Group]:
    return grouped(made_samples(), "sft")


def sheet(path: Path, found: dict[str, Group]) -> list[Cells]:
    """What people filled in, whole."""
    write_sheet(path, (one.row for one in found.values()), columns(found.values()))
    write(path, rows := [rank(row) for row in read(path)])
    return rows


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_samples_go_out_and_come_back_as_a_source_of_rankings(ending: str, workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / f"tasks.{ending}"
    said = rlhf("label", "export", file, "--prompts", 3, "-C", workspace).output
    assert said.startswith("3 prompts are in"), "of six, two have only one answer"
    rows = read(file)
    beside = [f"{name}_{place}" for place in (1, 2, 3) for name in ("answer", "rank")]
    assert list(rows[0]) == ["task", "prompt", *beside, "annotator"]
    assert [sum(row[f"answer_{place}"] != "" for place in (1, 2, 3)) for row in rows] == [3, 2, 3]

    write(file, [rank(rows[0]), rank(rows[1]), rows[2]])
    said = rlhf("label", "import", file, "-C", workspace).output
    assert said.startswith("2 new rankings, 0 known before, 1 tasks left empty. 1 of 3 prompts that were exported wait")
    assert "- {kind: file, path: feedback/rankings.jsonl, table: rankings, columns: {}}" in said

    source = FileSource(kind="file", path=str(STORE), table="rankings", columns={})
    collected = read_source(source, workspace, LimitsConfig(row=10**6, source=10**6)).tables["rankings"]
    assert [row["defects"] for row in collected] == [[], []]
    for row, sample in zip(collected, made_samples(), strict=False):
        assert (row["prompt"], row["annotator"], row["criterion"]) == (sample["prompt"], "ann", "overall")
        best_first = [answer for _, answer in sorted(zip(row["ranks"], row["responses"], strict=True))]
        assert [answer.strip()[-1] for answer in best_first] == ["a", "b", "c"][: len(best_first)]
        assert set(best_first) <= set(sample["responses"]), "to the letter as they were sampled"

    again = tmp_path / f"again.{ending}"
    assert rlhf("label", "export", again, "-C", workspace).output.startswith("2 prompts are in")
    other = rlhf("label", "export", tmp_path / f"other.{ending}", "--criterion", "helpful", "-C", workspace).output
    assert other.startswith("4 prompts are in")
    assert "rlhf label import" in other
    assert "--criterion helpful" in " ".join(other.split())


def test_once_the_file_is_a_source_the_next_step_is_a_run(workspace: Path, tmp_path: Path) -> None:
    params = workspace / "params.yaml"
    world = "    - kind: world"
    line = "    - {kind: file, path: feedback/rankings.jsonl, table: rankings, columns: {}}\n"
    params.write_text(params.read_text().replace(world, line + world))
    file = tmp_path / "my tasks.csv"
    assert f"rlhf label import '{file}'" in " ".join(rlhf("label", "export", file, "-C", workspace).output.split())
    said = rlhf("label", "import", file, "-C", workspace).output
    assert " ".join(said.split()).endswith("wait for a first ranking. Nobody has ranked anything yet")
    write(file, [rank(row) for row in read(file)])
    other = rlhf("label", "import", file, "--criterion", "helpfull", "-C", workspace).output
    assert "reward.criteria of params.yaml does not name `helpfull`" in " ".join(other.split())
    said = rlhf("label", "import", file, "-C", workspace).output
    assert " ".join(said.split()).endswith("0 of 4 prompts that were exported wait for a first ranking. Next: rlhf run")


def test_what_cannot_be_read_later_is_told_before_anything_is_added(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    rlhf("label", "export", file, "-C", workspace)
    write(file, [rank(row) for row in read(file)])
    named = rlhf("label", "import", file, "--criterion", "Very Nice", "-C", workspace)
    assert (named.exit_code, "lower-case letters" in named.stderr) == (2, True)
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("\nseed: 0", "\nseed: zero"))
    assert rlhf("label", "import", file, "-C", workspace).exit_code == Exit.CONFIG
    assert not (workspace / STORE).exists()
    (workspace / "data/samples/samples.parquet").write_bytes(b"PAR1")
    damaged = rlhf("label", "export", tmp_path / "more.csv", "-C", workspace)
    assert (damaged.exit_code, "is not the file that was written" in " ".join(damaged.stderr.split())) == (11, True)


def test_slips_of_a_spreadsheet(found: dict[str, Group], tmp_path: Path) -> None:
    """A quote that is not closed, a comma without quotes; blank rows and rows that nobody filled in are passed."""
    file, store = tmp_path / "tasks.csv", tmp_path / "rankings.jsonl"
    rows = sheet(file, found)
    sound = file.read_text(encoding="utf-8-sig")
    for spoiled, told in (
        (sound.replace(",ann\n", ',"ann\n', 1), "this is no row of a csv"),
        (sound.replace(",ann\n", ",Smith, Ann\n", 1), "more cells than columns"),
        (sound.replace(",ann\n", ",an\tn\n", 1), "which is no name"),
    ):
        assert spoiled != sound
        file.write_text(spoiled)
        with pytest.raises(DataError, match=told):
            add_rankings(file, found, store, "overall")
    assert not store.exists()
    unfilled = {name: "" for name in rows[0] if name.startswith("rank") or name == "annotator"}
    write(file, [rows[0] | unfilled | {"answer_1": "changed"}, *rows[1:]])
    with file.open("a") as sheet_file:
        sheet_file.write(",,,,,\n\n")
    assert add_rankings(file, found, store, "overall") == Imported(3, 0, 1)


def test_an_answer_that_no_row_may_hold_is_not_shown() -> None:
    row = {"prompt": [{"role": "user", "content": "?"}], "responses": ["a\0", "b", "c"]}
    (one,) = grouped([row], "sft").values()
    assert sorted(one.answers) == ["b", "c"]


def test_answers_are_shown_in_an_order_that_is_drawn() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": str(index)}], "responses": ["one", "two", "three"]}
        for index in range(200)
    ]
    found = grouped(rows, "sft")
    assert [found[name].prompt for name in found] == [row["prompt"] for row in rows]
    first = [sample.answers[0] for sample in found.values()]
    assert all(45 <= first.count(answer) <= 90 for answer in ("one", "two", "three"))
    turned = [row | {"responses": row["responses"][::-1]} for row in rows]
    assert grouped(turned, "sft") == found, "which says nothing of the order in which they were sampled"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"rank_1": "first"}, "rank_1 is `first`. Rank every answer, from 1, the best, to 3"),
        ({"rank_2": ""}, "rank_2 is empty. Rank every answer"),
        ({"rank_3": "4"}, "rank_3 is `4`"),
        ({"rank_1": "0"}, "rank_1 is `0`"),
        ({"rank_1": "1.5"}, "rank_1 is `1.5`"),
        ({"annotator": " "}, "nobody has signed this"),
        ({"answer_2": "another"}, "answer_2 of task .* is not what was exported"),
        ({"task": "t-0"}, "there is no task `t-0`"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_added(
    spoil: Cells, message: str, found: dict[str, Group], tmp_path: Path
) -> None:
    file, store = tmp_path / "tasks.jsonl", tmp_path / "rankings.jsonl"
    rows = sheet(file, found)
    write(file, [*rows[:2], rows[2] | spoil, *rows[3:]])
    with pytest.raises(DataError, match=rf"tasks.jsonl, line 3: {message}"):
        add_rankings(file, found, store, "overall")
    assert not store.exists()


def test_ties_and_whole_numbers_of_json_are_read(found: dict[str, Group], tmp_path: Path) -> None:
    file, store = tmp_path / "tasks.jsonl", tmp_path / "rankings.jsonl"
    rows = sheet(file, found)
    tied: dict[str, Any] = {"rank_1": 2, "rank_2": 1, "rank_3": 1, "annotator": 7}
    file.write_text(json.dumps(rows[0] | tied))
    assert add_rankings(file, found, store, "overall") == Imported(1, 0, 0)
    (given,) = read_rankings(store)
    assert (given["ranks"], given["annotator"]) == ([2, 1, 1], "7")


def test_a_person_ranks_a_task_once_by_each_criterion(found: dict[str, Group], tmp_path: Path) -> None:
    file, store = tmp_path / "tasks.jsonl", tmp_path / "rankings.jsonl"
    rows = sheet(file, found)
    assert add_rankings(file, found, store, "overall") == Imported(4, 0, 0)
    assert add_rankings(file, found, store, "overall") == Imported(0, 4, 0)
    assert add_rankings(file, grouped(made_samples(), "sft"), store, "helpful") == Imported(4, 0, 0)
    before = store.read_text()
    write(
        file, [{**row, "annotator": "ANN"} | {name: "1" for name in row if name.startswith("rank")} for row in rows[:1]]
    )
    with pytest.raises(DataError, match=r"line 1: ANN has ranked task t-\w+ before, and otherwise"):
        add_rankings(file, found, store, "overall")
    assert store.read_text() == before
    write(file, [row | {"annotator": "bob"} for row in rows])
    assert add_rankings(file, found, store, "overall").new == 4
    assert store.read_text().startswith(before)


def test_without_samples_and_with_none_left_there_is_nothing_to_rank(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    rlhf("label", "export", file, "-C", workspace)
    write(file, [rank(row) for row in read(file)])
    rlhf("label", "import", file, "-C", workspace)
    done = rlhf("label", "export", tmp_path / "more.csv", "-C", workspace)
    assert (done.exit_code, "Every sample has been ranked by `overall`" in done.stderr) == (Exit.DATA, True)
    assert not (tmp_path / "more.csv").exists()
    (workspace / STORE).write_text('{"task": "t"}\n')
    damaged = rlhf("label", "export", tmp_path / "more.csv", "-C", workspace)
    assert (damaged.exit_code, "rankings.jsonl, line 1 is damaged" in damaged.stderr) == (Exit.DATA, True)
    shutil.rmtree(workspace / "data")
    nothing = rlhf("label", "export", tmp_path / "more.csv", "-C", workspace)
    assert (nothing.exit_code, "holds no prompt with different answers" in nothing.stderr) == (Exit.DATA, True)


def test_label_counts_the_samples_that_nobody_has_ranked(found: dict[str, Group], tmp_path: Path) -> None:
    assert left_unranked(made_samples(), {}) == 4
    sheet(tmp_path / "tasks.jsonl", found)
    add_rankings(tmp_path / "tasks.jsonl", found, tmp_path / "rankings.jsonl", "overall")
    given = pd.DataFrame(read_rankings(tmp_path / "rankings.jsonl"))
    assert left_unranked(made_samples(), {"rankings": given}) == 0
    assert left_unranked(made_samples(), {"rankings": given.iloc[1:]}) == 1


def test_a_sheet_comes_back_after_everything_was_sampled_anew(workspace: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    rlhf("label", "export", first, "--prompts", 2, "-C", workspace)
    rows = [row | {"responses": [f"{text} anew" for text in row["responses"]]} for row in made_samples()]
    sample(workspace, rows)
    rlhf("label", "export", second, "--prompts", 2, "-C", workspace)
    for file in (first, second):
        write(file, [rank(row) for row in read(file)])
        assert rlhf("label", "import", file, "-C", workspace).output.startswith("2 new rankings"), file
    ranked = [text for row in read_rankings(workspace / STORE) for text in row["responses"]]
    assert [text.endswith(" anew") for text in ranked] == [False] * 5 + [True] * 7
    assert {one.policy for one in read_tasks(workspace / TASKS).values()} == {"sft"}


def test_what_went_out_stays_and_a_damaged_list_is_named(found: dict[str, Group], tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    one, *others = found.values()
    keep_tasks(file, [one])
    keep_tasks(file, others)
    keep_tasks(file, others)
    assert read_tasks(file) == found
    file.write_text(file.read_text().replace("two, b", "two, c"))
    with pytest.raises(DataError, match=r"tasks.jsonl, line 1 is damaged. Take the file from git"):
        read_tasks(file)


def test_another_model_answers_the_prompts_of_the_samples(workspace: Path, tmp_path: Path) -> None:
    model = tmp_path / "policy"
    save_model(tiny_policy(), tiny_tokenizer(), model, title="tiny", summary="A test.")
    prompts = [[{"role": "user", "content": text}] for text in ("red", "north", "two three")]
    rows = [{"prompt": prompt, "responses": ["a", "b"]} for prompt in prompts]
    sample(workspace, rows)
    set_params(workspace / "params.yaml", ["sample.answers=3", "tokens.response=6"])

    ask = ("label", "export", "--of", model, "-C", workspace, "--prompts")
    assert rlhf(*ask, 2, tmp_path / "one.csv").output.startswith("2 prompts are in")
    assert rlhf(*ask, 2, tmp_path / "two.csv").output.startswith("2 prompts are in")
    assert read(tmp_path / "two.csv") == read(tmp_path / "one.csv"), "which nobody has ranked yet"
    assert rlhf(*ask, 9, tmp_path / "all.csv").output.startswith("3 prompts are in")
    went_out = read_tasks(workspace / TASKS).values()
    assert [one.prompt for one in went_out] == prompts
    assert {one.policy for one in went_out} == {digest(model)}
    assert all(2 <= len(one.answers) <= 3 for one in went_out)
    write(tmp_path / "one.csv", [rank(row) for row in read(tmp_path / "one.csv")])
    assert rlhf("label", "import", tmp_path / "one.csv", "-C", workspace).output.startswith("2 new rankings")
    assert rlhf(*ask, 2, tmp_path / "left.csv").output.startswith("1 prompts are in")
    assert rlhf(*ask, 2, tmp_path / "other.csv", "--criterion", "helpful").output.startswith("2 prompts are in")
