"""Prefect's store of results is never read: what somebody plants there does not run."""

import ast
import base64
import json
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from tests.test_layers import modules

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


class Canary:
    """Who unpickles it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_that_is_planted_among_prefect_s_results_is_never_loaded(tmp_path: Path) -> None:
    from prefect import Task, flow
    from prefect.cache_policies import INPUTS
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_DEFAULT_SERIALIZER, temporary_settings

    from flows.align import forgetful

    def double(number: int) -> int:
        return 2 * number

    careless = Task(fn=double, name="double", cache_policy=INPUTS, persist_result=True)
    ours = forgetful(double, "double")

    @flow(persist_result=False)
    def doubling(task: str) -> int:
        return {"careless": careless, "ours": ours}[task](21)

    sung = tmp_path / "sung"
    settings = {PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage", PREFECT_RESULTS_DEFAULT_SERIALIZER: "pickle"}
    with temporary_settings(settings):
        doubling("ours")
        assert not (tmp_path / "storage").exists() or not any((tmp_path / "storage").iterdir()), "no result is kept"
        doubling("careless")
        (record,) = (tmp_path / "storage").iterdir()
        kept = json.loads(record.read_text())
        kept["result"] = base64.b64encode(cloudpickle.dumps(Canary(sung))).decode()
        record.write_text(json.dumps(kept))
        assert doubling("ours") == 42
        assert not sung.exists()
        doubling("careless")
    assert sung.exists(), "the canary does sing where a result is read: the test sees what it must"


def test_no_flow_and_no_task_keeps_results() -> None:
    calls = [
        (path, node)
        for path in modules("flows")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("flow", "task", "Task")
    ]
    assert len(calls) >= 4
    for path, call in calls:
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said.get("persist_result") == "False", f"{path}:{call.lineno}"
        assert said.get("cache_policy", "NO_CACHE") == "NO_CACHE", f"{path}:{call.lineno}"
    bare = [path for path in modules("flows") if "@flow\n" in path.read_text() or "@task\n" in path.read_text()]
    assert bare == []
