"""Promotion: only what the gate lets through, once, and the aliases follow the ledger."""

import json
from pathlib import Path

import pytest

from rlhf.errors import Busy, DataError, GateRefused, ServiceError
from rlhf.tracking.promotion import ledger, promote, reconcile, rollback
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.workspace import Workspace, make_workspace, write_decision


def aliases(workspace: Path) -> dict[str, str]:
    found = connect(workspace).client.get_registered_model("small-policy").aliases
    return {alias: str(version) for alias, version in found.items()}


def next_policy(path: Path, beta: float) -> Workspace:
    made = make_workspace(path, beta=beta, run=f"run-{beta}")
    write_decision(made)
    return made


def test_the_winner_becomes_candidate_then_champion(workspace: Workspace) -> None:
    sync(workspace.path)
    assert aliases(workspace.path) == {"candidate": "1"}
    done = promote(workspace.path, approver="ada")
    assert done.changed
    assert (done.champion.generation, done.champion.candidate_key) == (1, workspace.keys["align@dpo"])
    assert done.champion.version == "small-policy/1"
    assert aliases(workspace.path) == {"candidate": "1", "champion": "1"}


def test_promoting_registers_what_is_not_registered_yet(workspace: Workspace) -> None:
    promote(workspace.path)
    assert aliases(workspace.path)["champion"] == "1"


def test_promoting_the_champion_again_does_nothing_and_says_so(workspace: Workspace) -> None:
    promote(workspace.path)
    again = promote(workspace.path)
    assert not again.changed
    assert "already the champion" in again.sentence
    assert len(ledger(workspace.path).history()) == 1


@pytest.mark.parametrize("decision", ["REJECT", "INCONCLUSIVE", "ERROR"])
def test_a_decision_that_is_not_promote_names_the_failed_checks(workspace: Workspace, decision: str) -> None:
    write_decision(workspace, decision)
    with pytest.raises(GateRefused, match=rf"The gate says {decision}.*dpo: kl \(52 nats, at most 40\)") as raised:
        promote(workspace.path)
    assert "win_rate" not in str(raised.value)
    assert ledger(workspace.path).history() == []


def test_a_policy_that_was_not_the_one_evaluated_is_refused(workspace: Workspace) -> None:
    make_workspace(workspace.path, beta=0.5)
    with pytest.raises(GateRefused, match="models/policy/dpo is not the policy that was evaluated"):
        promote(workspace.path)
    assert ledger(workspace.path).history() == []


def test_without_a_decision_there_is_nothing_to_promote(workspace: Workspace) -> None:
    (workspace.path / "reports/gate/decision.json").unlink()
    with pytest.raises(DataError, match=r"decision\.json does not exist.*rlhf run"):
        promote(workspace.path)


def test_a_stale_promotion_loses(workspace: Workspace) -> None:
    promote(workspace.path)
    second = next_policy(workspace.path, 0.5)
    with pytest.raises(Busy, match="Another promotion came first"):
        promote(second.path, expected_generation=0)
    assert promote(second.path, expected_generation=1).champion.generation == 2


def test_rollback_and_the_aliases(workspace: Workspace) -> None:
    promote(workspace.path)
    next_policy(workspace.path, 0.5)
    promote(workspace.path)
    assert aliases(workspace.path) == {"candidate": "2", "champion": "2", "previous": "1"}
    back = rollback(workspace.path)
    assert back.champion.candidate_key == workspace.keys["align@dpo"]
    assert aliases(workspace.path) == {"candidate": "2", "champion": "1", "previous": "2"}
    assert [entry.action for entry in ledger(workspace.path).history()] == ["promote", "promote", "rollback"]


def test_reconcile_repairs_aliases_that_somebody_moved(workspace: Workspace) -> None:
    promote(workspace.path)
    next_policy(workspace.path, 0.5)
    promote(workspace.path)
    client = connect(workspace.path).client
    client.set_registered_model_alias("small-policy", "champion", "1")
    client.delete_registered_model_alias("small-policy", "previous")
    assert sorted(reconcile(workspace.path)) == ["champion", "previous"]
    assert aliases(workspace.path) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert reconcile(workspace.path) == []


def test_a_crash_between_ledger_and_mirror_is_repaired(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    sync(workspace.path)

    def fail(*arguments: object) -> None:
        raise ConnectionError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", fail)
        with pytest.raises(ConnectionError):
            promote(workspace.path)
    assert ledger(workspace.path).current() is not None
    assert "champion" not in aliases(workspace.path)
    sync(workspace.path)
    assert aliases(workspace.path)["champion"] == "1"


def test_a_registry_that_does_not_answer_leaves_the_ledger_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError):
        promote(workspace.path)
    assert ledger(workspace.path).history() == []


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
