"""Promotion: only what the gate lets through, as it was evaluated, once; aliases and files follow the ledger."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from flows import promoting
from rlhf import durable
from rlhf.cli import app
from rlhf.errors import Busy, DataError, Exit, GateRefused, ServiceError
from rlhf.gate.ledger import Ledger
from rlhf.manifest import digest, write_manifest
from rlhf.tracking import champions
from rlhf.tracking.promotion import approve, promote, reconcile, rollback, steps
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.workspace import (
    TRAINER,
    Workspace,
    add_policy,
    make_workspace,
    policy_answers,
    write_decision,
    write_params,
)

STEPS = ["verified", "registered", "served", "written"]


def aliases(workspace: Path) -> dict[str, str]:
    found = connect(workspace).client.get_registered_model("small-policy").aliases
    return {alias: str(version) for alias, version in found.items()}


def next_policy(path: Path, beta: float) -> Workspace:
    made = make_workspace(path, beta=beta, run=f"run-{beta}")
    write_decision(made)
    return made


def edit(path: Path) -> None:
    """Change one byte of a file: of JSON a digit or a letter inside a string, so that it stays JSON."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"p") if path.suffix == ".json" else -1] ^= 1
    path.write_bytes(content)


def assert_agrees(workspace: Path) -> None:
    """Ledger, aliases and files say the same."""
    book = Ledger.of(workspace)
    history, current = book.history(), book.current()
    assert [entry.generation for entry in history] == list(range(1, len(history) + 1))
    entries = {"champion": current, "previous": book.previous()}
    shown = {alias: version for alias, version in aliases(workspace).items() if alias != "candidate"}
    assert shown == {alias: entry.version.rpartition("/")[2] for alias, entry in entries.items() if entry}
    kept = {path.name for path in (workspace / champions.FILES).glob("[!.]*")}
    assert kept == {entry.policy for entry in entries.values() if entry}
    assert all(champions.whole(workspace, policy) for policy in kept)


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


DECISION, METRICS, WEIGHTS = "reports/gate/decision.json", "reports/evaluate/dpo/metrics.json", "model.safetensors"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the decision": (lambda path: edit(path / DECISION), f"{DECISION} was edited after `gate` wrote it"),
    "a byte of the report": (lambda path: edit(path / METRICS), "reports/evaluate is not what the gate decided by"),
    "a limit": (lambda path: write_params(path, limit=60), r"no longer what the gate decided by: gate\.limit"),
    "what DVC knows": (lambda path: (path / "dvc.lock").unlink(), "dvc.lock does not know that `gate` ran"),
    "the policy": (lambda path: make_workspace(path, beta=0.5), "policy/dpo is not the policy that was evaluated"),
    "a byte of the policy": (lambda path: edit(path / "models/policy/dpo" / WEIGHTS), f"{WEIGHTS} is not the file"),
    "no decision": (lambda path: (path / DECISION).unlink(), r"decision\.json does not exist.*rlhf run"),
    "half a decision": (lambda path: (path / DECISION).write_text('{"decision": "PROMOTE"}'), "is not a decision"),
}


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


def assert_unchanged(workspace: Path) -> None:
    """Nothing has been promoted."""
    assert Ledger.of(workspace).history() == []
    assert not list((workspace / champions.FILES).glob("[!.]*"))
    assert "champion" not in aliases(workspace)


def test_a_registered_version_of_other_bytes_is_refused(workspace: Workspace) -> None:
    sync(workspace.path)
    policy = workspace.path / "models/policy/dpo"
    (policy / "notes.txt").write_text("the same work, with another result")
    workspace.digests["models/policy/dpo"] = write_manifest(policy)
    write_decision(workspace)
    with pytest.raises(GateRefused, match="small-policy/1 holds other bytes than were evaluated"):
        promote(workspace.path)
    assert_unchanged(workspace.path)


def test_rollback_and_the_aliases(workspace: Workspace) -> None:
    promote(workspace.path)
    next_policy(workspace.path, 0.5)
    promote(workspace.path)
    assert aliases(workspace.path) == {"candidate": "2", "champion": "2", "previous": "1"}
    back = rollback(workspace.path)
    assert back.champion.candidate_key == workspace.keys["align@dpo"]
    assert aliases(workspace.path) == {"candidate": "2", "champion": "1"}, "what was rolled back is no way back"
    assert [entry.action for entry in Ledger.of(workspace.path).history()] == ["promote", "promote", "rollback"]
    with pytest.raises(GateRefused, match="against the champion of generation 1, and that of generation 3 is in use"):
        promote(workspace.path)
    write_decision(make_workspace(workspace.path, beta=0.5))
    assert promote(workspace.path).champion.generation == 4, "a person may, once it is compared with the one in use"
    assert_agrees(workspace.path)


def test_reconcile_repairs_what_somebody_changed(workspace: Workspace) -> None:
    promote(workspace.path)
    second = next_policy(workspace.path, 0.5)
    promote(workspace.path)
    client = connect(workspace.path).client
    client.set_registered_model_alias("small-policy", "champion", "1")
    client.delete_registered_model_alias("small-policy", "previous")
    files = workspace.path / champions.FILES
    shutil.rmtree(files / workspace.digests["models/policy/dpo"])
    edit(files / second.digests["models/policy/dpo"] / "model.safetensors")
    (files / "of-another").mkdir()
    changed = reconcile(workspace.path)
    assert {"champion", "previous"} < set(changed)
    assert len(changed) == 4
    assert_agrees(workspace.path)
    assert reconcile(workspace.path) == []


def test_rollback_while_the_registry_is_down(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(workspace.path)
    next_policy(workspace.path, 0.5)
    promote(workspace.path)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        done = rollback(workspace.path)
        assert done.sentence.endswith("MLflow does not know it yet: `rlhf sync` tells it")
    current = Ledger.of(workspace.path).current()
    assert current is not None
    assert current.policy == workspace.digests["models/policy/dpo"]
    assert champions.whole(workspace.path, current.policy), "it is served at once"
    assert aliases(workspace.path)["champion"] == "2"
    sync(workspace.path)
    assert_agrees(workspace.path)


def test_a_rollback_to_files_that_are_damaged_fetches_them_first(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(workspace.path).champion.policy
    next_policy(workspace.path, 0.5)
    promote(workspace.path)
    edit(workspace.path / champions.FILES / first / WEIGHTS)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(ServiceError):
            rollback(workspace.path)
    assert len(Ledger.of(workspace.path).history()) == 2
    assert rollback(workspace.path).champion.policy == first
    assert champions.whole(workspace.path, first)


def test_a_clone_without_the_ledger_promotes_over_nobody(workspace: Workspace) -> None:
    promote(workspace.path)
    Ledger.of(workspace.path).path.unlink()
    next_policy(workspace.path, 0.5)
    with pytest.raises(GateRefused, match=r"MLflow has a champion, version 1 .*knows nothing.*\.rlhf/ledger\.db"):
        promote(workspace.path)
    assert (Ledger.of(workspace.path).history(), aliases(workspace.path)["champion"]) == ([], "1")


def test_a_registry_that_does_not_answer_leaves_the_ledger_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError):
        promote(workspace.path)
    assert Ledger.of(workspace.path).history() == []


def test_aliases_follow_the_stage_key_not_the_number(workspace: Workspace) -> None:
    promote(workspace.path)
    second = next_policy(workspace.path, 0.5)
    promote(second.path)
    client = connect(workspace.path).client
    for version in client.search_model_versions():
        client.delete_model_version(version.name, version.version)
    for model in client.search_logged_models(["1"]):
        client.delete_logged_model(model.model_id)
    sync(workspace.path)
    assert aliases(workspace.path) == {"candidate": "3", "champion": "3"}, (
        "the second is registered anew; the first is gone"
    )
    assert json.loads((second.path / "models/policy/dpo/receipt.json").read_text())["key"] == second.keys["align@dpo"]


@pytest.fixture
def rivals(workspace: Workspace) -> Workspace:
    """Two registered policies, either of which the gate lets through in place of a third, the champion."""
    promote(workspace.path)
    for name in ("ppo", "grpo"):
        add_policy(workspace, name)
    sync(workspace.path)
    return workspace


@pytest.fixture
def guarded(synced: Workspace, tmp_path: Path) -> Path:
    """A workspace where a person has to approve, of whom two may sign: Ada and the trainer; their keys lie there."""
    path = shutil.copytree(synced.path, tmp_path / "small")
    write_params(path, approval="signed", approvers="approvers")
    (path / "dvc.yaml").touch()
    for name in ("ada@here", TRAINER):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path / name], check=True)
    keys = [f"{name} {(path / f'{name}.pub').read_text()}" for name in ("ada@here", TRAINER)]
    (path / "approvers").write_text("".join(keys))
    return path


def signs(path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["approve", "-C", str(path), "--key", str(path / name), "--approver", name])
    assert done.exit_code == 0, done.output


def test_where_approval_is_required_a_signed_one_promotes(guarded: Path) -> None:
    with pytest.raises(GateRefused, match=r"lacks the approval of another person.*`rlhf approve --key PATH`"):
        promote(guarded, approver="ada@here")
    for name, key in ((TRAINER, TRAINER), ("ada@here", TRAINER)):  # trained it; signs with another's key
        with pytest.raises(GateRefused, match=r"trained the policy|is not that of ada@here"):
            approve(guarded, name, guarded / key)
    with pytest.raises(GateRefused, match="lacks the approval"):
        promote(guarded)
    assert_unchanged(guarded)
    signs(guarded, "ada@here")
    assert promote(guarded).champion.approver == "ada@here"


def test_the_answer_in_a_form_is_about_the_decision_that_was_shown(
    guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = digest(guarded / DECISION)
    signed = promoting.main([str(guarded), "--approver=ada@here", f"--approved={shown}"])
    assert (signed, "rlhf approve" in capsys.readouterr().out) == (Exit.GATE_REFUSED, True), "signatures count alone"
    write_params(guarded, approval="form")
    cases = {"ada@here": ("0" * 64, "is not this decision"), TRAINER: (shown, "trained"), "": (shown, "no approver")}
    for name, (about, message) in cases.items():
        assert promoting.main([str(guarded), f"--approver={name}", f"--approved={about}"]) == Exit.GATE_REFUSED
        assert message in capsys.readouterr().out
    assert_unchanged(guarded)
    with pytest.raises(GateRefused, match=r"the form of the deployment `promote`"):
        promote(guarded)
    assert promoting.main([str(guarded), "--approver=ada@here", f"--approved={shown}"]) == Exit.DONE
    current = Ledger.of(guarded).current()
    assert current is not None
    assert current.approver == "ada@here"


def take_turns(made: Workspace, turns: Sequence[str]) -> list[str]:
    """Two promotions, a step of the named one at a time; those that won, in turn. Each begins by the gate's decision
    about its policy, against the champion of that moment."""
    work, won = {name: steps(made.path) for name in turns}, []
    for position, turn in enumerate(turns):
        if turn not in turns[:position]:
            write_decision(made, winner=turn)
        try:
            next(work[turn], None)
        except (Busy, GateRefused):
            continue
        if Ledger.of(made.path).current().candidate_key == made.keys[f"align@{turn}"] and turn not in won:
            won.append(turn)
    return won


def test_two_promoters_at_once_in_a_hundred_interleavings(rivals: Workspace) -> None:
    places = range(2 * (len(STEPS) + 1))
    chosen = Random(0).sample(list(combinations(places, len(STEPS) + 1)), 100)
    book, files = Ledger.of(rivals.path), rivals.path / champions.FILES
    begin, seen, client = book.path.read_bytes(), Counter(), connect(rivals.path).client
    for first in chosen:
        book.path.write_bytes(begin)
        client.set_registered_model_alias("small-policy", "champion", "1")
        for name in ("ppo", "grpo"):
            durable.remove(files / rivals.digests[f"models/policy/{name}"])
        turns = ["ppo" if place in first else "grpo" for place in places]
        won = take_turns(rivals, turns)
        written = [
            turns[: position + 1].count(turn) == STEPS.index("written") + 1 for position, turn in enumerate(turns)
        ]
        one_after_the_other = len(set(turns[: written.index(True) + 1])) == 1
        assert len(won) == (2 if one_after_the_other else 1), turns
        assert [entry.candidate_key for entry in book.history()[1:]] == [rivals.keys[f"align@{name}"] for name in won]
        reconcile(rivals.path)
        assert_agrees(rivals.path)
        seen[tuple(won)] += 1
    assert {("ppo",), ("grpo",)} < seen.keys()


KILLED = """
import os, signal, sys
from pathlib import Path
from functools import cache
from mlflow import MlflowClient
from rlhf import durable
from rlhf.tracking import served
from rlhf.tracking.promotion import steps

def die():
    os.kill(os.getpid(), signal.SIGKILL)

publish, set_alias = durable.publish, MlflowClient.set_registered_model_alias

def publish_no_champion(temporary, target):
    die() if target.parent.name == "champions" else publish(temporary, target)

def set_one_alias(*arguments):
    set_alias(*arguments)
    die()

real = served.serve_probe
ask_once = cache(lambda: real(Path(sys.argv[1], "models/policy/ppo"), **asked))

def remembered(files, prompts, **settings):
    asked.update(settings, prompts=prompts)
    return ask_once()

asked, served.serve_probe = {}, remembered
served.require_served(Path(sys.argv[1]), "ppo", Path(sys.argv[1], "models/policy/ppo"))  # all below know what it said

for workspace in sys.argv[1:]:
    point, child = Path(workspace).parent.name, os.fork()
    if child == 0:
        if point == "publishing":
            durable.publish = publish_no_champion
        if point == "mirroring":
            MlflowClient.set_registered_model_alias = set_one_alias
        for step in steps(Path(workspace)):
            if step == point:
                die()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, point
"""


def test_a_kill_at_any_step_leaves_what_the_reconciler_brings_to_agreement(rivals: Workspace) -> None:
    write_decision(rivals, winner="ppo")
    points = [*STEPS, "publishing", "mirroring"]
    copies = [shutil.copytree(rivals.path, rivals.path.parent / point / "small") for point in points]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, copies)], cwd=Path(__file__).parents[2], check=True)
    for point, path in zip(points, copies, strict=True):
        after = ["align@dpo", "align@ppo"] if point in ("written", "mirroring") else ["align@dpo"]
        assert [entry.candidate_key for entry in Ledger.of(path).history()] == [rivals.keys[name] for name in after]
        reconcile(path)
        assert_agrees(path)
        assert promote(path).changed == (len(after) == 1)
        assert len(Ledger.of(path).history()) == 2, point
        assert_agrees(path)
