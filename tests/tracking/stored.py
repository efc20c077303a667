"""What an MLflow store holds of a workspace, to compare with what the workspace wrote."""

from collections import Counter
from typing import Any

from rlhf.tracking.store import Store, connect
from tests.tracking.workspace import GRAPH, MODEL_STAGES, STEPS, TIME, Workspace


def runs_by_stage(store: Store) -> dict[str, Any]:
    """Every run, by its stage or "pipeline"; two runs of one stage are an error."""
    runs = list(store.client.search_runs([store.experiment_id]))
    names = [run.data.tags.get("dvc.stage", "pipeline") for run in runs]
    assert len(set(names)) == len(names), names
    return {name: store.client.get_run(run.info.run_id) for name, run in zip(names, runs, strict=True)}


def points(store: Store, run: Any, key: str) -> list[tuple[int, float, int]]:
    return sorted((m.step, m.value, m.timestamp) for m in store.client.get_metric_history(run.info.run_id, key))


def versions(store: Store) -> Counter[str]:
    """Stage keys of all registered versions of the experiment, counted."""
    found = store.client.search_model_versions(f"name LIKE '{store.prefix}-%'")
    return Counter(version.tags["stage_key"] for version in found)


def assert_agrees(made: Workspace) -> None:
    """The store holds exactly what the fixture wrote."""
    store = connect(made.path)
    runs = runs_by_stage(store)
    assert runs.keys() == {*GRAPH, "pipeline"}
    parent = runs.pop("pipeline")
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"seed": "0", "gate.confidence": "0.95"}
    for position, stage in enumerate(GRAPH):
        run, begun = runs[stage], TIME + 100 * position
        assert run.data.tags["rlhf.stage_key"] == made.keys[stage]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.info.start_time, run.info.end_time) == (
            "FINISHED",
            begun * 1000,
            (begun + 60) * 1000,
        )
        expected = [(step, 1.0 / (step + 1), int((begun + step) * 1000)) for step in range(STEPS)]
        assert points(store, run, "train/loss") == expected
        assert points(store, run, "accuracy.value") == [(0, 0.75, int((begun + 50) * 1000))]
        assert points(store, run, "_use_case..._.._x") == [(0, 3.0, int((begun + 50) * 1000))]
        data = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
        assert data == {p: made.digests[p][:36] for p in GRAPH[stage][1] if not p.startswith("models/")}
    assert versions(store) == Counter(made.keys[stage] for stage in MODEL_STAGES)
