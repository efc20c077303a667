"""collect, validate and screen as the programs that DVC runs, in a workspace of their own."""

import errno
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf import manifest
from rlhf.data.tables import read_table
from rlhf.errors import DataError, Exit
from rlhf.pipeline import champion, versioning
from rlhf.pipeline.graph import CODE, load_graph
from tests.conftest import run_here

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.integration
HOSTILE = "../bob\x1b[2J\u202e\n\x07"  # the name of an annotator
ROWS = [{"question": f"What is {n} + {n}?", "response": str(2 * n)} for n in range(40)]


class Workspace:
    """A directory with dvc.yaml and params.yaml, whose only source is a file of demonstrations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        self.params["collect"]["sources"] = [
            {"kind": "file", "path": "rows.jsonl", "table": "demonstrations", "columns": {"prompt": "question"}}
        ]
        self.params["label"]["judge"] = self.params["evaluate"]["truth"] = "none"  # who would know of these rows?
        self.params["evaluate"]["judge"] = {"kind": "reward"}
        self.stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
        self.stages["collect"]["deps"] = ["${collect.sources[0].path}"]
        self.rows(ROWS)

    def rows(self, rows: list[Any]) -> None:
        """Write the source."""
        (self.path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def run(self, *stages: str) -> subprocess.CompletedProcess[str]:
        """Run stages until one fails; return what the last one said."""
        self._write()
        for stage in stages:
            done = subprocess.run(
                [sys.executable, "-m", f"tasks.{stage}"],
                cwd=self.path,
                env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if done.returncode:
                break
        return done

    def files(self) -> list[Path]:
        """What lies in data and reports."""
        return sorted(path for room in ("data", "reports") for path in (self.path / room).rglob("*") if path.is_file())

    def run_here(self, *stages: str) -> None:
        """Run stages in this process."""
        self._write()
        for stage in stages:
            run_here(self.path, stage, import_module(f"tasks.{stage}"))

    def _write(self) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(self.params))
        (self.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": self.stages}))

    def report(self, stage: str) -> dict[str, Any]:
        """The report of a stage."""
        report: dict[str, Any] = json.loads((self.path / f"reports/{stage}.json").read_text())
        return report

    def splits(self) -> dict[str, tuple[str, str]]:
        """Id and split of every clean demonstration, by its question."""
        rows = read_table(self.path / "data/clean", "demonstrations")
        return {
            prompt[0]["content"]: (name, split)
            for prompt, name, split in zip(rows["prompt"], rows["id"], rows["split"], strict=True)
        }

    def manifests(self) -> list[bytes]:
        """What stands for the bytes of every output."""
        return [path.read_bytes() for path in sorted(self.path.glob("data/*/MANIFEST.json"))]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_bad_rows_are_quarantined_and_counted_and_the_others_split(workspace: Workspace) -> None:
    workspace.rows([*ROWS, {"question": "Empty?", "response": ""}, {"question": "Text?", "response": True}])
    done = workspace.run("collect", "validate")
    assert done.returncode == Exit.DONE, done.stderr
    assert "40 rows kept, 2 quarantined; 40 prompts" in done.stdout + done.stderr
    assert workspace.report("collect")["sources"]["0"] | {"digest": ""} == {
        "kind": "file",
        "name": "rows.jsonl",
        "digest": "",
        "demonstrations": 42,
    }
    assert workspace.report("validate")["tables"] == {
        "demonstrations": {
            "rows": 42,
            "kept": 40,
            "quarantined": 2,
            "reasons": {"empty response": 1, "response is not text": 1},
        }
    }
    bad = read_table(workspace.path / "data/quarantine", "demonstrations")
    assert [(row, list(reasons)) for row, reasons in zip(bad["row"], bad["reasons"], strict=True)] == [
        (40, ["empty response"]),
        (41, ["response is not text"]),
    ]
    prompts = read_table(workspace.path / "data/clean", "prompts")
    assert len(prompts) == 40
    assert set(prompts["split"]) <= {"train", "validation", "test"}


def test_a_test_prompt_that_stands_in_a_training_answer_is_found(workspace: Workspace) -> None:
    long = [
        f"Tell me how the {n} birds on the {n} roofs of my street learned to sing at {n} o'clock." for n in range(40)
    ]
    rows = [{"question": text, "response": "They did not."} for text in long]
    workspace.rows(rows)
    workspace.run_here("collect", "validate")
    by_split = {split: text for text, (_, split) in workspace.splits().items()}
    planted, teller = by_split["test"], by_split["train"]
    workspace.rows([row | ({"response": f"Sure: {planted}"} if row["question"] == teller else {}) for row in rows])
    workspace.run_here("collect", "validate")
    prompts = read_table(workspace.path / "data/clean", "prompts")
    found = {row.prompt[0]["content"]: row.seen for row in prompts.itertuples() if row.seen > 0}
    assert found == {planted: 1.0}


def test_equal_runs_give_equal_bytes_and_added_rows_move_nothing(workspace: Workspace, tmp_path_factory: Any) -> None:
    assert workspace.run("collect", "validate").returncode == Exit.DONE
    twin = Workspace(tmp_path_factory.mktemp("twin"))
    assert twin.run("collect", "validate").returncode == Exit.DONE
    assert twin.manifests() == workspace.manifests()
    before = workspace.splits()
    workspace.rows([{"question": "New?", "response": "Yes"}, *reversed(ROWS)])
    workspace.run_here("collect", "validate")
    after = workspace.splits()
    assert after.pop("New?")
    assert after == before


def test_too_many_bad_rows_stop_the_stage_with_their_counts_and_keep_earlier_outputs(workspace: Workspace) -> None:
    workspace.run_here("collect", "validate")
    before = workspace.splits()
    workspace.rows([*ROWS, *[{"question": f"{n}?", "response": " "} for n in range(5)]])
    done = workspace.run("collect", "validate")
    assert done.returncode == Exit.DATA
    assert "demonstrations: 5 of 45 rows (11.1%) are bad\n    empty response: 5, the first of them row" in done.stderr
    assert "Traceback" not in done.stderr
    assert workspace.splits() == before
    workspace.params["validate"]["max_quarantined"] = 0.2
    workspace.run_here("validate")


def test_a_table_of_bad_rows_only_is_refused_at_any_limit(workspace: Workspace) -> None:
    workspace.rows([{"question": "Empty?", "response": None}] * 3)
    workspace.params["validate"]["max_quarantined"] = 1.0
    done = workspace.run("collect", "validate")
    assert done.returncode == Exit.DATA
    assert "demonstrations: 3 of 3 rows (100.0%) are bad\n    empty response: 3, the first of them row 0" in done.stderr


def test_a_disk_that_fills_while_tables_are_written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage ends with it, and neither a table nor the report appears."""
    workspace.run_here("collect")
    before = workspace.files()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tasks.validate.write_frame", full)
    with pytest.raises(OSError, match="No space left"):
        workspace.run_here("validate")
    assert workspace.files() == before


def test_a_source_that_dvc_does_not_watch(workspace: Workspace) -> None:
    del workspace.stages["collect"]["deps"]
    done = workspace.run("collect")
    assert done.returncode == Exit.CONFIG
    assert "dvc.yaml does not declare rows.jsonl" in done.stderr
    assert "  - ${collect.sources[0].path}" in done.stderr


def test_a_source_that_is_not_there(workspace: Workspace) -> None:
    (workspace.path / "rows.jsonl").unlink()
    done = workspace.run("collect")
    assert done.returncode == Exit.DATA
    assert "rows.jsonl does not exist" in done.stderr
    assert not (workspace.path / "data").exists() or not list((workspace.path / "data").iterdir())


def test_sources_without_a_row_of_any_table(workspace: Workspace) -> None:
    answer = {"message_id": "a", "parent_id": None, "role": "assistant", "text": "Nobody asked."}
    (workspace.path / "rows.jsonl").write_text(json.dumps(answer))
    workspace.params["collect"]["sources"] = [{"kind": "trees", "path": "rows.jsonl", "revision": None, "split": None}]
    done = workspace.run("collect")
    assert (done.returncode, "has a row for any table" in done.stderr) == (Exit.DATA, True)


def test_shares_that_do_not_sum_to_one(workspace: Workspace) -> None:
    workspace.params["validate"]["splits"]["train"] = 0.9
    done = workspace.run("collect")
    assert done.returncode == Exit.CONFIG
    assert "validate.splits" in done.stderr
    assert "must sum to 1" in done.stderr


def test_the_small_world_has_no_bad_row(workspace: Workspace) -> None:
    workspace.params["collect"]["sources"] = [{"kind": "world"}]
    del workspace.stages["collect"]["deps"]
    sizes = {
        "demonstrations": 60,
        "prompts": 50,
        "texts": 40,
        "comparisons": 30,
        "ratings": 21,
        "thumbs": 20,
        "rankings": 10,
    }
    workspace.params["world"] |= sizes
    workspace.run_here("collect", "validate")
    tables = workspace.report("validate")["tables"]
    kept = {table: count["kept"] for table, count in tables.items()}
    assert kept.pop("beliefs") > 0  # of three groups, on every opinion that was asked for
    assert kept == sizes
    assert sum(count["quarantined"] for count in tables.values()) == 0


def compared(number: int, annotator: str, *, bad: bool = False) -> dict[str, Any]:
    """A comparison of two answers to one of forty questions."""
    texts = [f"Answer {number % 7} of many.", f"Answer {number % 5} at length."]
    chosen, rejected = texts if (number + len(annotator)) % 3 else texts[::-1]
    return ROWS[number % 40] | {"chosen": "" if bad else chosen, "rejected": rejected, "annotator": annotator}


@pytest.fixture
def judged(workspace: Workspace) -> Workspace:
    """The workspace with comparisons in place of demonstrations."""
    columns = {"prompt": "question", "chosen": "chosen", "rejected": "rejected", "annotator": "annotator"}
    workspace.params["collect"]["sources"][0] |= {"table": "comparisons", "columns": columns}
    return workspace


def test_a_revoked_annotator_was_never_there(
    judged: Workspace, tmp_path_factory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of hers are first, twins of others' rows, bad ones, and the only ones on some prompts."""
    hers = [compared(n, "mallory", bad=n == 7) for n in (*range(40), 3, 3)]
    others = [compared(n, who, bad=n == 11) for n in range(30) for who in ("ann", "bob")]
    judged.rows([row for pair in zip_longest(hers, others) for row in pair if row])
    judged.params["validate"]["revoked"] = ["mallory", "Ann"]
    judged.run_here("collect", "validate")
    assert capsys.readouterr().err.endswith("42 rows of revoked annotators left out; nobody is called Ann\n")
    twin = Workspace(tmp_path_factory.mktemp("twin"))
    twin.params["collect"] = judged.params["collect"]
    twin.rows(others)
    twin.run_here("collect", "validate")
    tables, expected = (
        {
            path.relative_to(place.path / "data"): path.read_bytes()
            for path in (place.path / "data/clean").glob("*.parquet")
        }
        for place in (judged, twin)
    )
    assert tables == expected
    assert {path.stem for path in tables} == {"comparisons", "prompts", "demonstrations", "texts"}
    assert (judged.path / "reports/validate.json").read_bytes() == (twin.path / "reports/validate.json").read_bytes()
    bad, expected_bad = (read_table(place.path / "data/quarantine", "comparisons") for place in (judged, twin))
    assert len(bad) == 2
    assert bad.drop(columns="row").astype(str).equals(expected_bad.drop(columns="row").astype(str))
    judged.params["validate"]["revoked"] = []
    judged.run_here("validate")
    assert judged.report("validate")["tables"]["comparisons"]["rows"] == 102


def test_another_judgement_is_no_other_input_of_what_learns_from_demonstrations(judged: Workspace) -> None:
    """Nor is another parameter of validate; and whoever changes a byte of the table is found."""

    def inputs(name: str) -> dict[str, str]:
        spec = load_graph(judged.path).stages[name]
        return {path: manifest.digest(judged.path / path) for path in spec.inputs if path.startswith("data/")}

    judged.rows([compared(n, "ann") for n in range(4)])
    judged.run_here("collect", "validate")
    before = {name: inputs(name) for name in ("base", "sft")}
    clean = manifest.digest(judged.path / "data/clean")
    assert [*before["sft"]] == ["data/clean/demonstrations.parquet"]
    judged.rows([compared(n, "ann") for n in range(5)])
    judged.params["validate"]["max_characters"] -= 1
    judged.run_here("collect", "validate")
    assert {name: inputs(name) for name in before} == before
    assert manifest.digest(judged.path / "data/clean") != clean
    with open(judged.path / "data/clean/demonstrations.parquet", "ab") as table:
        table.write(b"x")
    for name in before:
        with pytest.raises(DataError, match=r"demonstrations\.parquet is not the file that was written"):
            inputs(name)


@pytest.fixture
def copied(judged: Workspace) -> Workspace:
    """The workspace, in which somebody says what ann says."""
    judged.rows([compared(n, "ann") | {"annotator": who} for n in range(80) for who in ("ann", HOSTILE)])
    judged.run_here("collect", "validate")
    return judged


def test_an_alarm_is_told_and_stops_what_trains_where_it_is_to(
    copied: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "  copies/annotator/../bob\ufffd[2J\ufffd \ufffd + ann (of what both judged they say the same: 80 of 80)\n"
    copied.run_here("screen")
    assert told in capsys.readouterr().err
    (alarm,) = copied.report("screen")["alarms"]
    assert alarm["name"] == f"copies/annotator/{HOSTILE} + ann", "as gate.accepted_alarms has to name it"
    copied.params["screen"]["on_alarm"] = "fail"
    with pytest.raises(DataError, match=rf"(?s){re.escape(told)}.*validate\.revoked.*screen\.on_alarm"):
        copied.run_here("screen")
    graph, waiting = load_graph(copied.path), {"screen"}
    for name in graph.stages:  # in their order
        if waiting & {*graph.upstream[name]}:
            waiting.add(name)
    assert {spec.name for spec in graph if spec.meta["gpu"]} - waiting == {"base", "sft", "sample"}, "read no judgement"
    copied.params["validate"]["revoked"] = [HOSTILE]
    copied.run_here("validate", "screen")
    copied.params["validate"]["revoked"] = [HOSTILE, "ann"]
    with pytest.raises(DataError, match="names everybody whose feedback was collected"):
        copied.run_here("validate")


def test_another_threshold_of_alarms_makes_the_gate_alone_stale(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(copied.path)  # as DVC wants it
    copied.run_here("screen")
    champion.pin(copied.path, champion.Pinned())
    shutil.copy(REPOSITORY / CODE, copied.path)
    versioning.init_workspace(copied.path)
    for path in (copied.path / made for spec in load_graph(copied.path) for made in spec.made):
        if not path.exists():  # all that comes after, as if it had been trained
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("made")
    with Repo(str(copied.path)) as repo:
        repo.commit(force=True)
        copied.params["screen"]["copied"] = 1.0
        copied.run_here("screen")
        assert copied.report("screen")["alarms"] == []
        assert versioning.stale_stages(copied.path) == {"screen", "gate"}


def test_verdicts_of_people_on_test_prompts_stay_in_the_test_split(judged: Workspace) -> None:
    """Whoever lists imported verdicts as a source of feedback teaches nothing with them: splits go by prompt."""
    judged.rows([compared(n, "ann") for n in range(40)])
    judged.run_here("collect", "validate")
    splits = {row["question"]: split_of(judged, row["question"]) for row in ROWS}
    leaked = [question for question, split in splits.items() if split == "test"]
    assert leaked
    judged.rows([compared(n, "ann") for n in range(40)] + [{**compared(0, "eve"), "question": q} for q in leaked])
    judged.run_here("collect", "validate")
    rows = read_table(judged.path / "data/clean", "comparisons")
    assert set(rows.loc[rows["annotator"] == "eve", "split"]) == {"test"}
    assert judged.report("validate")["set"]["overlap"]["prompts"] == 0


def split_of(workspace: Workspace, question: str) -> str:
    prompts = read_table(workspace.path / "data/clean", "prompts")
    (split,) = prompts.loc[[prompt[0]["content"] == question for prompt in prompts["prompt"]], "split"]
    return str(split)
