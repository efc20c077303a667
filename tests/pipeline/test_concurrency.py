"""Work side by side: two workspaces on one cache, and stages of one workspace whose outputs take time to store."""

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from rlhf.errors import Exit
from rlhf.manifest import digest
from rlhf.pipeline import fingerprint, versioning
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.supervisor import supervise
from tests.pipeline.test_stage import rewrite
from tests.pipeline.test_supervisor import edit

pytestmark = pytest.mark.integration


def bring(workspace: Path, *stages: str) -> list[str]:
    """Bring stages up to date, one after the other; what DVC did for each."""
    states = []
    for stage in stages or tuple(load_graph(workspace).stages):
        spec = load_graph(workspace).stages[stage]
        outcome = supervise(spec, workspace, "run-1", threading.Event(), lambda *_: None)
        assert outcome.exit == Exit.DONE, outcome.message
        states.append(outcome.state)
    return states


def damaged(cache: Path) -> list[Path]:
    """Objects of a DVC cache whose bytes are not those of their name."""
    objects = [file for file in (cache / "files/md5").rglob("*") if file.is_file()]
    assert objects
    md5 = {file: hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() for file in objects}
    return [file for file in objects if file.parent.name + file.stem != md5[file]]


def outputs(workspace: Path) -> dict[str, str]:
    return {path: digest(workspace / path) for spec in load_graph(workspace) for path in spec.made}


def test_two_workspaces_on_one_cache(workspace: Path, finished: Path, tmp_path: Path) -> None:
    """One does other work than the other, then the same at the same time; neither sees anything of the other's."""
    alone, cache = outputs(finished), tmp_path / "cache"
    one, two = workspace, shutil.copytree(workspace, tmp_path / "other")
    for directory in (one, two):
        edit(directory / ".dvc/config", "[cache]\n", f"[cache]\n    dir = {cache}\n")
    edit(two / "params.yaml", '"- "', '"+ "')
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(bring, (one, two))) == [["ran"] * 4] * 2
    other = outputs(two)
    assert outputs(one) == alone
    assert {path for path in alone if other[path] != alone[path]} >= {"data/rows", "models/small", "models/large"}

    edit(one / "params.yaml", '"- "', '"+ "')  # what is linked to the cache must not be written through
    assert bring(one) == ["restored"] * 4, "the work of one is the other's, too"
    assert outputs(one) == outputs(two) == other
    for directory in (one, two):
        edit(directory / "params.yaml", '"+ "', '"* "')
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(bring, (one, two)))
    assert outputs(one) == outputs(two)
    assert damaged(cache) == []
    assert not list(one.rglob(".partial-*")) + list(two.rglob(".partial-*"))


def test_stages_with_large_outputs_side_by_side(finished: Path) -> None:
    body = """
import numpy
size = 60_000_000 if stage.item == "small" else 40_000_000
stage.output(f"models/{stage.item}").joinpath("model.bin").write_bytes(numpy.random.default_rng(size).bytes(size))
stage.output(f"reports/model/{stage.item}.csv").write_text("step,loss")
"""
    rewrite(finished, "model", body)
    fingerprint.refresh(finished)
    models = ["model@small", "model@large"]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda stage: bring(finished, stage), models)) == [["ran"], ["ran"]]
    lock = yaml.safe_load((finished / "dvc.lock").read_text())["stages"]
    sizes = {name: [out["size"] for out in lock[name]["outs"] if out["path"].startswith("models/")] for name in models}
    assert sizes["model@small"][0] - sizes["model@large"][0] == pytest.approx(20_000_000, abs=1000)
    assert damaged(finished / ".dvc/cache") == []
    assert not versioning.stale_stages(finished) & set(models)
