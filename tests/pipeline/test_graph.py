"""The graph that is read from dvc.yaml, against DVC's own and against files that are wrong."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from rlhf.errors import ConfigError
from rlhf.pipeline import versioning
from rlhf.pipeline.graph import PARAMS, Graph, load_graph
from tests.conftest import ROOT, copy_pipeline


def write(directory: Path, stages: str, params: str = "seed: 0") -> Path:
    (directory / "dvc.yaml").write_text(stages)
    (directory / "params.yaml").write_text(params)
    return directory


def pairs(graph: Graph) -> set[tuple[str, str]]:
    return {(name, other) for name, others in graph.upstream.items() for other in others}


def edges(workspace: Path) -> set[tuple[str, str]]:
    """DVC's own graph as pairs (stage, stage that it waits for)."""
    with Repo(str(workspace)) as repo:
        return {(one.name, other.name) for one, other in repo.index.graph.edges}


def test_the_graph_of_the_repository_is_dvcs_own(tmp_path: Path) -> None:
    copy_pipeline(tmp_path)
    versioning.init_workspace(tmp_path)
    found = pairs(load_graph(tmp_path))
    assert found == edges(tmp_path)
    assert ("align@dpo", "reward@overall") in found


def test_the_graph_of_a_workspace_with_shared_directories_is_dvcs_own(workspace: Path) -> None:
    assert pairs(load_graph(workspace)) == edges(workspace)


def test_stages_come_after_those_they_wait_for() -> None:
    graph = load_graph(ROOT)
    order = list(graph.stages)
    assert all(order.index(other) < order.index(name) for name, other in pairs(graph))
    assert order[0] == "collect"
    assert order[-1] == "gate"


def test_interpolation_reaches_into_lists_and_keeps_types(tmp_path: Path) -> None:
    stages = """
stages:
  a:
    cmd: run ${names[1].path} --long ${length}
    deps: ["${names[0].path}"]
    meta: {timeout: "${length}"}
"""
    graph = load_graph(write(tmp_path, stages, "length: 3\nnames: [{path: x.csv}, {path: y.csv}]"))
    stage = graph.stages["a"]
    assert (stage.cmd, stage.deps, stage.meta) == ("run y.csv --long 3", ("x.csv",), {"timeout": 3})


def test_foreach_over_a_mapping_gives_key_and_item(tmp_path: Path) -> None:
    stages = "stages: {a: {foreach: '${kinds}', do: {cmd: 'run ${key} ${item.steps}', outs: ['out/${key}']}}}"
    graph = load_graph(write(tmp_path, stages, "kinds: {big: {steps: 9}, tiny: {steps: 1}}"))
    assert [(stage.name, stage.cmd, stage.outs) for stage in graph] == [
        ("a@big", "run big 9", ("out/big",)),
        ("a@tiny", "run tiny 1", ("out/tiny",)),
    ]


def test_a_directory_that_stages_share_is_read_as_their_outputs(tmp_path: Path) -> None:
    stages = """
stages:
  a: {foreach: [one, two], do: {cmd: run, outs: ["models/${item}"], metrics: ["models/${item}.json"]}}
  b: {cmd: run, deps: [models, rows.csv, models/one]}
"""
    graph = load_graph(write(tmp_path, stages))
    assert graph.stages["b"].deps == ("models", "rows.csv", "models/one")
    own = ("models/one", "models/one.json", "models/two", "models/two.json")
    assert graph.stages["b"].inputs == (*own, "rows.csv", "models/one")


def test_another_weight_trains_no_reward_model_but_the_referee(tmp_path: Path) -> None:
    stages = load_graph(ROOT).stages
    reading = {
        name for name, spec in stages.items() if any("reward.criteria".startswith(k) for k in spec.params[PARAMS])
    }
    assert reading == {"referee", "align@ppo", "align@dpo", "evaluate@ppo", "evaluate@dpo", "gate"}


def test_revoking_an_annotator_runs_all_that_stands_on_the_feedback_and_nothing_collects_again() -> None:
    graph = load_graph(ROOT)
    revoked = "validate.revoked"
    stale = {
        n for n, spec in graph.stages.items() if any((revoked + ".").startswith(k + ".") for k in spec.params[PARAMS])
    }
    assert stale == {"validate", "label"}
    for name in graph.stages:  # in their order
        if stale & set(graph.upstream[name]):
            stale.add(name)
    assert graph.stages.keys() - stale == {"collect"}
    accepted = "gate.accepted_alarms"
    assert {
        n for n, s in graph.stages.items() if any((accepted + ".").startswith(k + ".") for k in s.params[PARAMS])
    } == {"gate"}, "to let an alarm stand trains nothing again"


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ("stages: {a: {cmd: 'run ${nothing.here}'}}", ["a", "nothing.here"]),
        ("stages: {a: {deps: [x]}}", ["a", "cmd"]),
        ("stages: {a: {foreach: 3, do: {cmd: run}}}", ["a", "foreach"]),
        (
            "stages: {a: {cmd: x, deps: [2], outs: [1]}, b: {cmd: y, deps: [1], outs: [2]}}",
            ["a", "b", "wait for each other"],
        ),
        ("stages: {a: {cmd: x, meta: {timeout: soon}}}", ["a", "meta.timeout", "'soon'", "number"]),
        ("stages: {a: {cmd: x, meta: {retries: true}}}", ["a", "meta.retries", "True"]),
        ("stages: {a: {cmd: x, meta: {stalled: -1}}}", ["a", "meta.stalled", "-1"]),
        ("stages: {a: {cmd: x, meta: {stalled: 0}}}", ["`meta.stalled` of stage `a` is 0", "above 0, or take it out"]),
        ("stages: {a: {cmd: x, meta: {retry_delay: -1}}}", ["`meta.retry_delay` of stage `a` is -1", "from 0 on"]),
        (
            "stages: {a: {cmd: x, meta: {retrys: 9}}}",
            ["unknown key `meta.retrys` of stage `a`", "mean `meta.retries`?"],
        ),
        ("stages: {a: {cmd: x, meta: {owner: me}}}", ["`meta.owner`", "known here: gpu, timeout, stalled, retries,"]),
        ("stages: {a: {foreach: [b], do: {cmd: x, wdir: data}}}", ["stage `a@b` has a `wdir`", "Take it out"]),
        (
            "stages: {a: {cmd: x, outs: [data/clean]}, b: {cmd: y, metrics: [./data/clean: {cache: false}]}}",
            ["`data/clean` is an output of `a` and of `b`. Take it out of one of them"],
        ),
        (
            "stages: {a: {cmd: x, outs: [data/clean/rows]}, b: {cmd: y, outs: [data]}}",
            ["`data`, an output of `b`, holds `data/clean/rows`, one of `a`. Put one elsewhere"],
        ),
        ("stages: {a: {cmd: x, outs: [/tmp/rows]}}", ["`/tmp/rows`, an output of stage `a`", "Put it inside"]),
        ("stages: {a: {cmd: x, metrics: [../m.json]}}", ["`../m.json`", "outside the workspace"]),
        ("stages: {a: {cmd: x, params: [seed, model.dim]}}", ["stage `a`", "`model.dim`", "params.yaml does not hold"]),
        ("stages: {a: {cmd: x, outs: models/x}}", ["`outs` of stage `a` must be a list, not 'models/x'"]),
        ("stages: {a: {cmd: x, params: 5}}", ["`params` of stage `a` must be a list, not 5"]),
        ("stages: [a, b]", ["`stages` must be a mapping", "['a', 'b']"]),
        ("stages: {a: {cmd: x, meta: [gpu]}}", ["a", "meta", "mapping"]),
        ("stages: [", ["dvc.yaml", "not YAML"]),
        ("- a", ["dvc.yaml", "list"]),
    ],
)
def test_a_wrong_file_is_named_with_the_stage_and_the_key(tmp_path: Path, stages: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_graph(write(tmp_path, stages))
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_a_key_with_nothing_behind_it_is_an_empty_list(tmp_path: Path) -> None:
    (stage,) = load_graph(write(tmp_path, "stages: {a: {cmd: x, deps: , params: , outs: [y]}}"))
    assert (stage.deps, stage.params, stage.outs) == ((), {}, ("y",))


def test_a_parameter_that_dvcs_run_cache_does_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`model\.0\.size` needs another name"):
        load_graph(write(tmp_path, "stages: {}", "model: [{size: 3}]"))


def test_a_directory_without_dvc_yaml_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rlhf init"):
        load_graph(tmp_path)
