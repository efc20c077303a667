"""`python -m benchmarks.gate`: does the gate let in what is better, and keep out what is worse?

On the small world, for each of several seeds: policies as they should be, and policies with a fault that is known. Each
is put before the gate twice: as it stands, and without the world's truth, judged by the independent reward model. What
both say is laid beside what gold says of the answers.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks.results import RESULTS, line, put_between
from rlhf.config.editing import set_params
from rlhf.gate.records import DECISION
from rlhf.gate.statistics import bootstrap_mean, win_points
from rlhf.manifest import digest, write_manifest
from rlhf.pipeline.champion import FILES, Pinned, pin
from rlhf.pipeline.fingerprint import packages
from rlhf.pipeline.graph import load_graph

ROOT = Path(__file__).parents[1]
FOUND = RESULTS / "gate.json"
PAGE = ROOT / "docs" / "gate.md"
BEGIN, FINISH = "<!-- trials: begin -->", "<!-- trials: end -->"
BLIND = {
    "evaluate.judge": "{kind: referee}",
    "evaluate.truth": "none",
    "gate.may_be_unmeasured": "[gold_gain, harmful_compliance, harmful_increase, over_refusal, capability]",
}
TENTH = {"align.ppo.kl_coefficient": "0.01"}
HARDER = {"align.ppo.iterations": "60", "align.ppo.loop.optimizer.learning_rate": "0.003"}
Judgement = Mapping[str, Any]
out = Console(highlight=False)


@dataclass(frozen=True)
class Candidate:
    """A policy to put before the gate."""

    about: str
    algorithm: str
    settings: Mapping[str, str]
    judged: Callable[[Judgement], list[int]] | None = None  # the ranks that its training sees in place of people's
    champion: str | None = None  # the algorithm whose policy is in use


def flipped(ranking: Judgement) -> list[int]:
    """The worst first."""
    return [max(ranking["ranks"]) + 1 - rank for rank in ranking["ranks"]]


def by_length(ranking: Judgement) -> list[int]:
    """The longest first."""
    lengths = [len(response) for response in ranking["responses"]]
    return [1 + sum(other > length for other in lengths) for length in lengths]


CANDIDATES = (
    Candidate("PPO", "ppo", {}),
    Candidate("DPO", "dpo", {}),
    Candidate("PPO at a tenth of the KL coefficient", "ppo", TENTH),
    Candidate("the same, three times as long at three times the learning rate", "ppo", TENTH | HARDER),
    Candidate("DPO on flipped labels", "dpo", {}, judged=flipped),
    Candidate("DPO on length", "dpo", {}, judged=by_length),
    Candidate("DPO again, where DPO is the champion", "dpo", {"align.seed": "1"}, champion="dpo"),
)


@dataclass(frozen=True)
class Trial:
    """One candidate of one seed."""

    about: str
    seed: int
    gold: tuple[float, float, float]  # its win rate by gold against whom it has to beat, with the 95 % interval
    decision: str
    stopped_by: list[str]
    blind_decision: str
    blind_stopped_by: list[str]

    @property
    def says(self) -> str:
        """What gold says of it."""
        _, low, high = self.gold
        return "better" if low > 0.5 else "worse" if high < 0.5 else "unclear"


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    only: Annotated[list[int] | None, typer.Option(help="Seeds to run; what is known of others is kept.")] = None,
) -> None:
    """Run every trial, write benchmarks/results/gate.json, and the table in docs/gate.md."""
    for seed in only or range(seeds):
        found = []
        for trial in trials(seed):
            out.print(f"seed {seed}, {trial.about}: gold says {trial.says}; {trial.decision}, {trial.blind_decision}")
            found.append(trial)
        others = [trial for trial in known() if trial.seed != seed]
        every = sorted(others + found, key=lambda trial: trial.seed)
        FOUND.write_text(json.dumps([asdict(trial) for trial in every], indent=1) + "\n")
    put_between(PAGE, BEGIN, FINISH, table(known()))


def known() -> list[Trial]:
    """What was found before."""
    return [Trial(**trial) for trial in json.loads(FOUND.read_text())] if FOUND.exists() else []


def trials(seed: int) -> Iterator[Trial]:
    """All candidates of a seed, from one SFT and one reward model."""
    with TemporaryDirectory(prefix="rlhf-gate-") as directory:
        clean = Path(directory, "clean")
        subprocess.run([sys.executable, "-m", "rlhf", "init", str(clean)], env=environment(), check=True, stdout=2)
        set_params(clean / "params.yaml", [f"seed={seed}", "align.algorithms=[ppo, dpo]"])
        for spec in load_graph(clean):
            if spec.name != "gate":
                program(clean, spec.cmd)
        for number, candidate in enumerate(CANDIDATES):
            place = Path(directory, str(number))
            shutil.copytree(clean, place, copy_function=os.link)
            yield trial(place, candidate, seed)
            shutil.rmtree(place)


def trial(workspace: Path, candidate: Candidate, seed: int) -> Trial:
    """Train the candidate, evaluate it and ask the gate, with and without the truth."""
    opponent = "sft"
    if candidate.champion:
        champion = workspace / "models/policy" / candidate.champion
        shutil.copytree(champion, workspace / FILES / digest(champion))
        pin(workspace, Pinned(1, digest(champion)))
        opponent = "champion"
    settings = {**candidate.settings, "align.algorithms": f"[{candidate.algorithm}]"}
    set_params(workspace / "params.yaml", [f"{key}={value}" for key, value in settings.items()])
    for name in {"ppo", "dpo"} - {candidate.algorithm}:
        shutil.rmtree(workspace / "models/policy" / name)
    if candidate.settings or candidate.judged:
        with judgements(workspace, candidate.judged):
            program(workspace, f"python -m tasks.align {candidate.algorithm}")
    decided = decide(workspace, candidate.algorithm)
    rows = pq.read_table(workspace / f"reports/evaluate/{candidate.algorithm}/rows/rows.parquet")
    points = win_points(rows["policy_gold"].to_numpy(), rows[f"{opponent}_gold"].to_numpy())
    gold = bootstrap_mean(points, confidence=0.95, resamples=10_000, seed=seed)
    set_params(workspace / "params.yaml", [f"{key}={value}" for key, value in BLIND.items()])
    return Trial(
        candidate.about, seed, (gold.value, gold.low, gold.high), *decided, *decide(workspace, candidate.algorithm)
    )


class judgements:
    """Within it the training split of a workspace is ranked by `ranks` (None: as people ranked it)."""

    def __init__(self, workspace: Path, ranks: Callable[[Judgement], list[int]] | None) -> None:
        self.directory, self.ranks = workspace / "data/judgements", ranks
        self.kept = workspace / "data/judgements.kept"

    def __enter__(self) -> None:
        shutil.copytree(self.directory, self.kept)
        if self.ranks:
            rows = pq.read_table(self.directory / "rankings.parquet")
            ranked = [self.ranks(r) if r["split"] == "train" else r["ranks"] for r in rows.to_pylist()]
            column = pa.array(ranked, rows.schema.field("ranks").type)
            (self.directory / "rankings.parquet").unlink()  # it is a link to the file of the other candidates
            pq.write_table(
                rows.set_column(rows.schema.get_field_index("ranks"), "ranks", column),
                self.directory / "rankings.parquet",
            )
            (self.directory / "MANIFEST.json").unlink()
            write_manifest(self.directory)

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.directory)
        self.kept.rename(self.directory)


def decide(workspace: Path, algorithm: str) -> tuple[str, list[str]]:
    """The gate's word on the only candidate, and the checks that stop it."""
    for command in (f"python -m tasks.evaluate {algorithm}", "python -m tasks.gate"):
        program(workspace, command)
    found = json.loads((workspace / DECISION).read_text())["candidates"][algorithm]
    return found["decision"], [c["name"] for c in found["checks"] if c["blocking"] and not c["passed"]]


def program(workspace: Path, command: str) -> None:
    """Run a stage's program. Raises RuntimeError with its complaint."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    done = subprocess.run(words, cwd=workspace, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with exit code {done.returncode}: {done.stderr}")


def environment() -> dict[str, str]:
    """For processes that run in a workspace of their own."""
    return os.environ | packages()


def table(found: list[Trial]) -> str:
    """For a page: a line a candidate, over the seeds."""
    head = ("candidate", "gold: win rate", "gold says", "the gate", "the gate without gold", "stopped by")
    lines = [line(head), line(["---"] * len(head))]
    for about in dict.fromkeys(trial.about for trial in found):
        some = [trial for trial in found if trial.about == about]
        rates = [trial.gold[0] for trial in some]
        stopped = Counter(name for trial in some for name in {*trial.stopped_by, *trial.blind_stopped_by})
        cells = [
            about,
            f"{median(rates):.1%}<br>{min(rates):.1%} to {max(rates):.1%}",
            counted(trial.says for trial in some),
            counted(trial.decision for trial in some),
            counted(trial.blind_decision for trial in some),
            ", ".join(f"`{name}` {count}" for name, count in stopped.most_common(6)),
        ]
        lines.append(line(cells))
    return "\n".join(lines)


def counted(words: Iterator[str] | Any) -> str:
    """Each word with how often it is there."""
    return ", ".join(f"{word} {count}" for word, count in Counter(words).most_common())


if __name__ == "__main__":
    typer.run(main)
