"""Aliases and files follow the ledger: after a rollback, after what somebody changed, when the registry was down."""

import json
import shutil

import pytest

from rlhf.errors import DataError, GateRefused, ServiceError
from rlhf.gate.ledger import Ledger
from rlhf.tracking import champions
from rlhf.tracking.lineage import lineage
from rlhf.tracking.mirror import mirror
from rlhf.tracking.promotion import promote, rollback
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.promoted import WEIGHTS, aliases, assert_agrees, edit, next_policy
from tests.tracking.workspace import Workspace, make_workspace, write_decision


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


def test_it_repairs_what_somebody_changed(workspace: Workspace) -> None:
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
    changed = mirror(workspace.path)
    assert {"champion", "previous"} < set(changed)
    assert len(changed) == 4
    assert_agrees(workspace.path)
    assert mirror(workspace.path) == []


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
    assert lineage(workspace.path).version == "small-policy/1", "of the one that the ledger names"
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


def test_a_rollback_to_files_that_are_nowhere_changes_nothing(workspace: Workspace) -> None:
    first = promote(workspace.path).champion.policy
    next_policy(workspace.path, 0.5)
    second = promote(workspace.path).champion
    shutil.rmtree(workspace.path / champions.FILES / first)
    connect(workspace.path).client.delete_model_version("small-policy", "1")
    with pytest.raises(DataError, match=r"files of small-policy/1.* are neither here nor in MLflow"):
        rollback(workspace.path)
    assert Ledger.of(workspace.path).current() == second


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
