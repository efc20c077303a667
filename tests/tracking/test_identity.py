"""A workspace that is moved keeps its records and files; one that is copied has its own; MLflow takes every name."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.errors import DataError, Exit
from rlhf.tracking.identity import FILE, identity, model_safe
from rlhf.tracking.outputs import verify
from rlhf.tracking.registry import resolve
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.stored import assert_agrees, runs_by_stage
from tests.tracking.workspace import Workspace


def test_a_workspace_that_was_moved_goes_on_with_its_records_and_files(workspace: Workspace, tmp_path: Path) -> None:
    old, new = workspace.path.rename(tmp_path / "50% of: it's"), tmp_path / "moved"
    assert sync(old) == Exit.DONE
    old.rename(new)
    assert sync(new) == Exit.DONE
    assert_agrees(replace(workspace, path=new))
    store = connect(new)
    assert [experiment.name for experiment in store.client.search_experiments()] == ["50. of. it.s", "Default"]
    shutil.rmtree(new / "models")
    verify(resolve(new, "policy/1"), workspace.digests["models/policy/dpo"])
    store.client.log_artifacts(runs_by_stage(store)["sft"].info.run_id, str(new / "data/raw"))
    assert [path.name for path in tmp_path.iterdir()] == ["moved"], "nothing goes to the old place"


@pytest.mark.parametrize("name", ["m:v", "a/b", "50%", "it's", 'a"b', "..", ".", "", "a@b", "ü", "b\udcff", "x" * 255])
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_experiment_name, _validate_model_name

    safe = model_safe(name)
    _validate_experiment_name(safe)
    _validate_model_name(f"{safe}-reward-helpful")
    assert model_safe(safe) == safe
    assert not set("'\"@%\\`") & set(safe), "none that a condition of a search or the name of a version means"
    assert len(f"{safe}-reward-helpful") <= 256
    safe.encode()


def test_a_copy_that_sends_to_the_same_server_has_an_identity_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = tmp_path / "g"
    first.mkdir()
    drawn = identity(first)
    copy = shutil.copytree(first, tmp_path / "h")
    assert identity(copy) == drawn, "its store is a copy too: it goes on with what is in it"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    own = identity(copy)
    assert own.id != drawn.id
    assert (drawn.experiment, own.experiment) == ("g", "h")
    assert identity(first) == drawn
    moved = copy.rename(tmp_path / "moved")
    first.rename(copy)  # another lies now where the copy was
    for _ in range(2):
        assert (identity(moved).id, identity(moved).experiment) == (own.id, "h")
        assert (identity(copy).id, identity(copy).experiment) == (drawn.id, "g")


def test_a_damaged_identity_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / ".rlhf").mkdir()
    for text in ("", "[]", '{"id": "a"}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(DataError, match=r"\.rlhf/workspace is damaged"):
            identity(tmp_path)
