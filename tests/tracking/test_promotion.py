"""Promotion: only what the gate lets through, as it was evaluated, once."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import DataError, GateRefused, ServiceError
from rlhf.gate.ledger import LEDGER, Ledger
from rlhf.gate.records import DECISION
from rlhf.manifest import digest, write_manifest
from rlhf.tracking import champions
from rlhf.tracking.lineage import lineage
from rlhf.tracking.promotion import promote, steps
from rlhf.tracking.sender import sync
from tests.tracking.promoted import WEIGHTS, aliases, assert_unchanged, edit, next_policy
from tests.tracking.workspace import Workspace, make_workspace, policy_answers, write_decision, write_params

METRICS = "reports/evaluate/dpo/metrics.json"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the decision": (lambda path: edit(path / DECISION), f"{DECISION} was edited after `gate` wrote it"),
    "a byte of the report": (lambda path: edit(path / METRICS), "reports/evaluate is not what the gate decided by"),
    "a limit": (lambda path: write_params(path, limit=60), r"no longer what the gate decided by: gate\.limit"),
    "what DVC knows": (lambda path: (path / "dvc.lock").unlink(), "dvc.lock does not know that `gate` ran"),
    "the policy": (lambda path: make_workspace(path, beta=0.5), "policy/dpo is not the policy that was evaluated"),
    "a byte of the policy": (lambda path: edit(path / "models/policy/dpo" / WEIGHTS), f"{WEIGHTS} is not the file"),
    "no decision": (lambda path: (path / DECISION).unlink(), r"decision\.json does not exist.*rlhf run"),
    "half a decision": (lambda path: (path / DECISION).write_text('{"format": 1}'), "is not a decision"),
}


def test_the_winner_becomes_candidate_then_champion(workspace: Workspace) -> None:
    sync(workspace.path)
    assert aliases(workspace.path) == {"candidate": "1"}
    done = promote(workspace.path, approver="ada")
    assert done.changed
    policy = workspace.digests["models/policy/dpo"]
    assert (done.champion.generation, done.champion.candidate_key) == (1, workspace.keys["align@dpo"])
    assert (done.champion.version, done.champion.policy, done.champion.approver) == ("small-policy/1", policy, "ada")
    assert aliases(workspace.path) == {"candidate": "1", "champion": "1"}
    assert digest(workspace.path / champions.FILES / policy) == policy
    kept = workspace.path / ".rlhf/decisions" / done.champion.report_digest / "decision.json"
    assert kept.read_bytes() == (workspace.path / "reports/gate/decision.json").read_bytes()


def test_promoting_again_does_nothing_and_says_so(workspace: Workspace) -> None:
    promote(workspace.path)  # which registers what is not registered yet
    again = promote(workspace.path)
    assert not again.changed
    assert "already the champion" in again.sentence
    assert len(Ledger.of(workspace.path).history()) == 1


@pytest.mark.parametrize("decision", ["REJECT", "INCONCLUSIVE", "ERROR"])
def test_a_decision_that_is_not_promote_names_the_failed_checks(workspace: Workspace, decision: str) -> None:
    write_decision(workspace, decision)
    with pytest.raises(
        GateRefused, match=rf"The gate says {decision}[^\n]*\n  not passed by dpo: kl \(52 nats, at most 40\)"
    ) as raised:
        promote(workspace.path)
    assert "win_rate" not in str(raised.value)
    assert Ledger.of(workspace.path).history() == []


def test_a_champion_of_the_same_generation_is_another_where_it_is_another_policy(workspace: Workspace) -> None:
    """As in a ledger that was begun anew."""
    Ledger.of(workspace.path).promote("key", "aa", "small-policy/1", "a decision", 0, "ada")
    write_decision(workspace)
    (workspace.path / LEDGER).unlink()
    Ledger.of(workspace.path).promote("key", "bb", "small-policy/1", "a decision", 0, "ada")
    with pytest.raises(GateRefused, match="The decision was taken against the champion of generation 1"):
        promote(workspace.path)
    assert [entry.policy for entry in Ledger.of(workspace.path).history()] == ["bb"]


@pytest.mark.parametrize("change", REFUSED)
def test_what_changed_after_the_evaluation_is_refused(synced: Workspace, tmp_path: Path, change: str) -> None:
    path = shutil.copytree(synced.path, tmp_path / "small")
    spoil, message = REFUSED[change]
    spoil(path)
    with pytest.raises((GateRefused, DataError), match=message):
        promote(path)
    assert_unchanged(path)


def test_bytes_that_changed_in_the_registry_are_refused(workspace: Workspace) -> None:
    sync(workspace.path)
    for file in (workspace.path / "mlartifacts").rglob(WEIGHTS):
        edit(file)
    with pytest.raises(DataError, match=f"{WEIGHTS} is not the file that was written"):
        promote(workspace.path)
    assert_unchanged(workspace.path)


def test_files_that_answer_otherwise_than_the_evaluated_policy_are_refused(workspace: Workspace) -> None:
    first, *others = policy_answers()
    write_decision(workspace, answers=[[*first[:-1], first[-1] + 1], *others])
    with pytest.raises(GateRefused, match="registered files of dpo give 1 of 3 probes another answer than the eval"):
        promote(workspace.path)
    assert_unchanged(workspace.path)


def test_files_that_cannot_be_served_are_refused(workspace: Workspace) -> None:
    policy = workspace.path / "models/policy/dpo"
    (policy / WEIGHTS).unlink()
    workspace.digests["models/policy/dpo"] = write_manifest(policy)
    write_decision(workspace)
    with pytest.raises(GateRefused, match=r"The registered files of dpo cannot be served \(.*safetensors.*\)"):
        promote(workspace.path)
    assert_unchanged(workspace.path)


def test_an_evaluation_that_wrote_down_no_answers_promotes_nothing(workspace: Workspace) -> None:
    sync(workspace.path)
    for content in (None, "{}"):
        record = workspace.path / "reports/evaluate/dpo/rows/serving.json"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlhf.tracking.promotion.require_untouched", lambda *_: None)
            record.unlink() if content is None else record.write_text(content)
            with pytest.raises(DataError, match=r"serving\.json (does not exist|is not a record)"):
                promote(workspace.path)
        assert_unchanged(workspace.path)


def test_another_result_of_the_same_work_is_another_version(workspace: Workspace) -> None:
    sync(workspace.path)
    policy = workspace.path / "models/policy/dpo"
    (policy / "notes.txt").write_text("the same work, with another result")
    workspace.digests["models/policy/dpo"] = write_manifest(policy)
    write_decision(workspace)
    promote(workspace.path)
    assert aliases(workspace.path)["champion"] == "2"
    assert lineage(workspace.path, "champion").digest == workspace.digests["models/policy/dpo"]


def test_a_clone_without_the_ledger_promotes_over_nobody(workspace: Workspace) -> None:
    promote(workspace.path)
    Ledger.of(workspace.path).path.unlink()
    next_policy(workspace.path, 0.5)
    with pytest.raises(GateRefused, match=r"MLflow has a champion, version 1 .*knows nothing.*\.rlhf/ledger\.db"):
        promote(workspace.path)
    assert (Ledger.of(workspace.path).history(), aliases(workspace.path)["champion"]) == ([], "1")


@pytest.mark.parametrize(("done", "table"), [(1, "registered_model_aliases"), (2, "logged_models")])
def test_a_registry_that_fails_between_two_steps_is_told_and_asked_again(
    workspace: Workspace, done: int, table: str
) -> None:
    sync(workspace.path)
    work = steps(workspace.path)
    for _ in range(done):
        next(work)
    with sqlite3.connect(workspace.path / "mlflow.db") as store:
        store.execute(f"ALTER TABLE {table} RENAME TO away")
    with pytest.raises(ServiceError, match="run `rlhf sync`"):
        next(work)
    assert Ledger.of(workspace.path).history() == []
    with sqlite3.connect(workspace.path / "mlflow.db") as store:
        store.execute(f"ALTER TABLE away RENAME TO {table}")
    assert promote(workspace.path).changed


def test_a_registry_that_does_not_answer_leaves_the_ledger_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError):
        promote(workspace.path)
    assert Ledger.of(workspace.path).history() == []
