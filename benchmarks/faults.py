"""`python -m benchmarks.faults`: everything dies at every place, is started again, and must leave what it should.

Every stage of dvc.yaml on a world of tens of rows, the sender and a promotion; benchmarks/crash.py says how.
"""

import gc
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from multiprocessing import Pipe, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import sending
from benchmarks.crash import Survey, Trials, Work
from benchmarks.results import RESULTS, line, put_between
from rlhf.config.editing import set_params
from rlhf.evaluation import serving
from rlhf.pipeline import champion, fingerprint
from rlhf.pipeline.graph import StageSpec, load_graph
from rlhf.pipeline.stage import run_stage
from rlhf.serving import Probe
from tests.judges.server import serving as serving_judge

ROOT = Path(__file__).parents[1]
FOUND = RESULTS / "faults.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, FINISH = "<!-- faults: begin -->", "<!-- faults: end -->"
LOOPS = ("base.model", "sft", "reward", "align.ppo", "align.dpo")
SMALL = {
    "world.demonstrations": 60,
    "world.prompts": 200,
    "world.texts": 40,
    **{f"world.{kind}": 8 for kind in ("comparisons", "ratings", "thumbs", "rankings")},
    "world.votes": 2,
    "validate.max_quarantined": 0.9,
    "base.model.vocab_size": 800,
    "base.model.hidden_size": 8,
    "base.model.layers": 1,
    "base.model.heads": 1,
    "base.model.epochs": 0.1,
    "sft.epochs": 1.0,
    "sample.prompts": 40,
    "reward.epochs": 1.0,
    "reward.loop.batch_size": 8,
    "align.snapshots": 1,
    "align.ppo.iterations": 2,
    "align.ppo.rollout.prompts": 8,
    "align.ppo.loop.batch_size": 8,
    "align.dpo.epochs": 1.0,
    "align.dpo.loop.batch_size": 16,
    "evaluate.prompts": 8,
    "evaluate.belief_answers": 1,
    "evaluate.safety_prompts": 4,
    "evaluate.diversity_prompts": 2,
    "evaluate.diversity_answers": 2,
    "evaluate.documents": 4,
    "evaluate.judge_pairs": 4,
    "gate.bootstrap": 50,
    **{f"{loop}.loop.checkpoint_every": 1 for loop in LOOPS},
}
ENDPOINT = "max_tokens: 8, max_bytes: 9999, timeout: 60, retries: 0, wait: 0.1, parallel: 1, missed: 2, budget: 1000"
MEMORY = Path("/dev/shm")  # quicker than a disk: what dies here is a process, not the machine
out = Console(highlight=False)


def main(
    only: Annotated[list[str] | None, typer.Option(help="What to try; what is known of others is kept.")] = None,
    in_turn: Annotated[bool, typer.Option(help="Death at every place, and the other faults in turn.")] = False,
) -> None:
    """Try everything, write benchmarks/results/faults.json and the table in docs/reliability.md; exit code 1 when
    anything did not recover."""
    for survey in surveys(only, in_turn):
        found = known() | {survey.name: survey}
        out.print(f"{survey.name}: {survey.places} places, {recovered(survey)} recovered")
        for trial, wrong in survey.wrong.items():
            out.print(f"  {trial}: {'; '.join(wrong)}", style="red", markup=False, soft_wrap=True)
        FOUND.write_text(json.dumps([asdict(survey) for survey in found.values()], indent=1) + "\n")
    found = known()
    put_between(PAGE, BEGIN, FINISH, table(list(found.values())))
    raise typer.Exit(any(survey.wrong for survey in found.values()))


def known() -> dict[str, Survey]:
    """What was found before, by name."""
    return {one["name"]: Survey(**one) for one in json.loads(FOUND.read_text())} if FOUND.exists() else {}


def surveys(only: list[str] | None, in_turn: bool) -> Iterator[Survey]:
    """Every stage in the order of dvc.yaml, then what talks to MLflow."""
    for works in (stages, sending.works):
        with TemporaryDirectory(prefix="rlhf-faults-", dir=MEMORY if MEMORY.is_dir() else None) as directory:
            root = Path(directory)
            for work in works(root):
                trials = Trials(work, root)
                if not only or work.name in only:
                    yield trials.survey(in_turn=in_turn)


def stages(root: Path) -> Iterator[Work]:
    """One after the other, in `root`/workspace, which is made when the first is asked for."""
    workspace = small_workspace(root / "workspace")
    works = [stage(spec) for spec in load_graph(workspace)]
    gc.freeze()
    yield from works
    with judging() as url:
        judge = f"{{kind: endpoint, url: {url}, model: any, key: null, {ENDPOINT}}}"
        few = ["evaluate.prompts=3", "evaluate.judge_pairs=2", f"evaluate.judge={judge}"]
        set_params(workspace / "params.yaml", few)
        last = stage(load_graph(workspace).stages["evaluate@dpo"])
        yield replace(last, name=f"{last.name}, by a judge behind HTTP, over what it made before")


@contextmanager
def judging() -> Iterator[str]:
    """A judge behind a server, in a process of its own, who prefers the longer answer; yields its address."""
    here, there = Pipe()

    def serve() -> None:
        with serving_judge() as server:
            server.answer = lambda shown: "[[A]]" if len(shown["answer_A"]) > len(shown["answer_B"]) else "[[B]]"
            there.send(server.url)
            there.recv()

    process = get_context("fork").Process(target=serve)
    process.start()
    yield here.recv()
    here.send("end")
    process.join()


def small_workspace(workspace: Path) -> Path:
    """A workspace of the small world, as small as it can be, without git and DVC."""
    workspace.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, workspace)
    set_params(workspace / "params.yaml", [f"{key}={value}" for key, value in SMALL.items()])
    champion.pin(workspace, champion.Pinned())
    fingerprint.refresh(workspace)
    return workspace


def stage(spec: StageSpec) -> Work:
    """A stage, run as dvc.yaml says."""
    _, _, name, *arguments = shlex.split(spec.cmd)
    module = import_module(name)

    def run() -> None:
        sys.argv = [name, *arguments]
        serving.serve_probe = unasked  # type: ignore[assignment]
        run_stage(module.main)

    return Work(spec.name, run, spec.made)


def unasked(directory: Path, **orders: object) -> Probe:
    """In place of a server of the policy, whose times are never twice the same."""
    return Probe([], None, f"{directory.name} was not asked")


def recovered(survey: Survey) -> int:
    """Places at which nothing was wrong, whatever the fault."""
    return survey.places - len({trial.split()[0] for trial in survey.wrong})


def table(found: list[Survey]) -> str:
    """For a page."""
    head = ("", "places", "recovered", "faults", "second deaths", "wrong")
    rows = [(one.name, one.places, recovered(one), one.trials, one.twice, len(one.wrong)) for one in found]
    sums = ("**all**", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    return "\n".join([line(head), line(["---"] * len(head)), *(line(map(str, row)) for row in [*rows, sums])])


if __name__ == "__main__":
    typer.run(main)
