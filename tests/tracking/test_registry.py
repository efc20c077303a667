"""Registered models: found by name, number and alias, fetched whole, and with the lineage they were made with."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.errors import DataError, ServiceError
from rlhf.tracking.lineage import lineage
from rlhf.tracking.outputs import Output, find_output, verify
from rlhf.tracking.promotion import promote
from rlhf.tracking.registry import look_up, resolve
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.conftest import Server
from tests.tracking.workspace import Workspace, make_workspace, write_decision


@pytest.fixture
def two_policies(workspace: Workspace) -> tuple[Workspace, Workspace]:
    """The workspace before and after a new beta: policy/1 is the champion, policy/2 stands in the workspace."""
    sync(workspace.path)
    promote(workspace.path)
    second = make_workspace(workspace.path, beta=0.5, run="run-2")
    write_decision(second)
    sync(workspace.path)
    return workspace, second


def test_what_stands_in_the_workspace_is_not_fetched(synced: Workspace) -> None:
    assert resolve(synced.path, "sft") == synced.path / "models/sft"
    assert resolve(synced.path, "policy@candidate") == synced.path / "models/policy/dpo"
    assert not (synced.path / ".rlhf/models").exists()


def test_an_old_version_is_fetched_whole_and_verified(two_policies: tuple[Workspace, Workspace]) -> None:
    first, second = two_policies
    for name in ("policy/1", "policy@champion", "small-policy/1"):
        directory = resolve(first.path, name)
        assert directory.is_relative_to(first.path / ".rlhf/models")
        verify(directory, first.digests["models/policy/dpo"])
        assert json.loads((directory / "receipt.json").read_text())["key"] == first.keys["align@dpo"]
    assert resolve(first.path, "policy") == first.path / "models/policy/dpo", "no version: the latest"
    assert look_up(connect(first.path), "policy").key == second.keys["align@dpo"]


@pytest.mark.integration
def test_files_go_through_a_server(
    two_policies: tuple[Workspace, Workspace], server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, second = two_policies
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("RLHF_EXPERIMENT", f"{tmp_path.name}-files")
    sync(second.path)
    shutil.rmtree(second.path / "models")
    directory = resolve(second.path, "policy/1")
    verify(directory, second.digests["models/policy/dpo"])
    assert lineage(second.path, "policy/1").key == second.keys["align@dpo"]
    shutil.rmtree(second.path / ".rlhf/models")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.directory}/mlflow.db")
    assert resolve(second.path, "policy/1") == directory, "the same files, when the server is down"


def test_a_damaged_download_is_refused(two_policies: tuple[Workspace, Workspace]) -> None:
    first, _ = two_policies
    weights = next((first.path / "mlartifacts").rglob("model.safetensors"))
    for weights in (first.path / "mlartifacts").rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match=r"model\.safetensors is not the file that was written"):
        resolve(first.path, "policy/1")
    assert not list((first.path / ".rlhf/models").glob("[!.]*")), "nothing damaged is kept"


def test_a_reward_model_is_registered_by_its_criterion() -> None:
    paths = ("models/reward/overall", "models/reward/helpful", "models/referee", "models/policy/dpo", "models/sft")
    outputs = [Output(Path(path), path, "aa", {}) for path in paths]
    assert [output.kind for output in outputs] == ["reward", "reward-helpful", "referee", "policy", "sft"]
    assert [output.name for output in outputs] == ["reward", "reward-helpful", "referee", "dpo", "sft"]


@pytest.mark.parametrize(
    "name", ["policy/9", "policy@nobody", "policy/x", "judge", "policy@champion", "reward-helpful"]
)
def test_a_model_that_is_not_there_is_named(synced: Workspace, name: str) -> None:
    with pytest.raises(DataError, match=f"`{name}`"):
        resolve(synced.path, name)


def test_a_version_that_somebody_else_registered_is_refused(workspace: Workspace) -> None:
    sync(workspace.path)
    store = connect(workspace.path)
    store.client.create_model_version("small-policy", "s3://elsewhere/model")
    with pytest.raises(DataError, match="small-policy/2 was not registered by this pipeline"):
        resolve(workspace.path, "policy/2")


def test_an_upload_that_was_cut_off_is_finished_not_doubled(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def fail(*arguments: object, **named: object) -> None:
        raise ConnectionError("cut off")

    for method in ("finalize_logged_model", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, fail)
            with pytest.raises(ConnectionError):
                sync(workspace.path)
    sync(workspace.path)
    store = connect(workspace.path)
    assert len(store.client.search_logged_models([store.experiment_id])) == 4
    assert len(store.client.search_model_versions()) == 4


def test_the_version_leads_to_runs_and_data(synced: Workspace) -> None:
    store = connect(synced.path)
    (version,) = store.client.search_model_versions("name = 'small-policy'")
    assert version.tags["upstream.models/sft"] == synced.keys["sft"]
    assert version.tags["upstream.models/reward/overall"] == synced.keys["reward@overall"]
    for data in ("data/clean", "data/judgements"):
        assert version.tags[f"dvc.md5.{data}"].endswith(".dir")
    assert version.run_id
    for path in ("models/sft", "models/reward/overall", "data/raw"):
        assert f"[{path}](#/experiments/" in version.description


def test_an_unreachable_store_is_a_service_error(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9") as raised:
        resolve(workspace.path, "sft")
    assert "secret" not in str(raised.value)
    output = find_output(workspace.path, "models/sft")
    assert output is not None
    assert lineage(workspace.path, "sft").key == output.key, "what stands here needs no server"
