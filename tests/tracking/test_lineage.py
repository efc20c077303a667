"""Lineage from receipts: the whole way from a policy to its sources, and no more than is known."""

import json
import shutil
from dataclasses import asdict

import pytest

from rlhf.errors import DataError
from rlhf.manifest import sha256
from rlhf.tracking.lineage import Node, lineage
from rlhf.tracking.promotion import promote
from rlhf.tracking.sender import sync
from tests.tracking.workspace import GRAPH, SOURCE, Workspace, make_workspace, write_output


def edges(node: Node) -> set[tuple[str, str]]:
    return {(parent.name, child.name) for parent in node.walk() for child in parent.children}


def test_the_tree_has_every_edge_of_the_graph(workspace: Workspace) -> None:
    node = lineage(workspace.path, "dpo")
    declared = {(output, name) for output, inputs in GRAPH.values() for name in inputs}
    assert edges(node) == declared | {("data/raw", "world")}
    for child in node.walk():
        if child.name == "world":
            assert child == Node("world", "source", params={"kind": "world"})
        elif child.stage == "source":
            assert (child.name, child.digest) == (SOURCE, workspace.digests[SOURCE])
            assert child.md5 is not None
        else:
            assert child.key == workspace.keys[child.stage]
            assert child.digest == workspace.digests[child.name]
            assert child.md5 is not None
            assert (child.code, child.commit, child.program) == ("c0de", "abc123+", "0.1.0 def456")
    assert node.params == {"seed": 0, "align.dpo.beta": 0.1, "align.dpo.epochs": 1.0}


def test_names_that_mean_the_same_model(synced: Workspace) -> None:
    trees = [lineage(synced.path, name) for name in ("dpo", "models/policy/dpo", "policy/1", "small-policy/1")]
    assert all(tree == trees[0] for tree in trees)
    assert trees[0].version == "small-policy/1"
    assert {child.name: child.version for child in trees[0].children}["models/sft"] == "small-sft/1"


def test_json_and_back(workspace: Workspace) -> None:
    node = lineage(workspace.path, "dpo")
    assert Node.from_dict(json.loads(json.dumps(asdict(node)))) == node


def test_reports_that_a_stage_waits_for_are_nothing_that_it_is_made_from(workspace: Workspace) -> None:
    place = workspace.path / "models/policy/dpo"
    receipt = json.loads((place / "receipt.json").read_text())
    write_output(place, {**receipt, "inputs": receipt["inputs"] | {"reports/screen.json": "0" * 64}})
    assert {child.name for child in lineage(workspace.path, "dpo").children} == set(receipt["inputs"])


def test_an_input_that_was_replaced_is_said_to_be(workspace: Workspace) -> None:
    receipt = json.loads((workspace.path / "models/sft/receipt.json").read_text())
    write_output(workspace.path / "models/sft", {**receipt, "key": "another"})
    sft = next(child for child in lineage(workspace.path, "dpo").children if child.name == "models/sft")
    assert sft == Node("models/sft", "replaced since", digest=workspace.digests["models/sft"])


def test_a_source_file_that_was_edited_is_said_to_be(workspace: Workspace) -> None:
    (workspace.path / SOURCE).write_text("another\n")
    stages = {node.name: node.stage for node in lineage(workspace.path, "base").walk()}
    assert stages[SOURCE] == "replaced since"


def test_lineage_goes_on_through_a_file_of_an_output(workspace: Workspace) -> None:
    table = "data/clean/model.safetensors"
    receipt = json.loads((workspace.path / "models/sft/receipt.json").read_text())
    write_output(workspace.path / "models/sft", {**receipt, "inputs": {table: sha256(workspace.path / table)}})
    (found,) = lineage(workspace.path, "sft").children
    assert (found.name, found.stage, found.digest) == (table, "validate", sha256(workspace.path / table))
    (whole,) = found.children
    assert (whole.name, whole.key) == ("data/clean", workspace.keys["validate"])
    assert ("data/clean", "data/raw") in edges(found)
    (workspace.path / table).write_bytes(b"another")
    (found,) = lineage(workspace.path, "sft").children
    assert (found.stage, found.children) == ("replaced since", ())


def test_a_directory_that_is_nobodys_output_is_a_source(workspace: Workspace) -> None:
    (workspace.path / SOURCE).unlink()
    (workspace.path / SOURCE).mkdir()
    found = {node.name: node for node in lineage(workspace.path, "base").walk()}
    assert found[SOURCE] == Node(SOURCE, "source", digest=workspace.digests[SOURCE])


def test_a_stage_that_did_not_run_here_has_no_commit(workspace: Workspace) -> None:
    shutil.rmtree(workspace.path / ".work")
    assert {node.commit for node in lineage(workspace.path, "dpo").walk()} == {None}


def test_an_old_champion_is_answered_from_what_was_stored_with_it(workspace: Workspace) -> None:
    sync(workspace.path)
    promote(workspace.path)
    before = lineage(workspace.path, "champion")
    make_workspace(workspace.path, beta=0.5, run="run-2")
    sync(workspace.path)
    after = lineage(workspace.path, "champion")
    assert after.key == workspace.keys["align@dpo"]
    assert after.params["align.dpo.beta"] == 0.1
    assert edges(after) == edges(before)
    assert lineage(workspace.path, "policy/1") == lineage(workspace.path, "policy@champion") == after
    assert lineage(workspace.path, "dpo").params["align.dpo.beta"] == 0.5


def test_a_model_that_is_not_there_is_named(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"no model `grpo`.*models/policy/dpo"):
        lineage(workspace.path, "grpo")
    with pytest.raises(DataError, match="no champion yet"):
        lineage(workspace.path)
