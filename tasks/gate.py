"""gate: may the best policy be promoted? Checks each one, decides, and writes the reports. A refusal is a result."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
from numpy.typing import NDArray

from rlhf import manifest
from rlhf.gate import looks
from rlhf.gate.decision import assess, decide
from rlhf.gate.evidence import Evidence
from rlhf.gate.records import DECISION
from rlhf.pipeline.champion import GENERATION, JUDGED, POLICY
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.report.gate import render_gate
from rlhf.report.run import render_report
from rlhf.report.summary import read_json
from rlhf.tracking.standing import count_looks, read


def main(stage: Stage) -> None:
    """Write reports/gate/decision.json, reports/gate.html, which states its digest, and reports/report.html."""
    algorithms = stage.config.align.algorithms
    looked = {str(name): look(stage, name) for name in algorithms}
    found = [evidence(stage, name, looked) for name in algorithms]
    judges = {one.evaluation.get("judge") for one in found}
    sets = {looks.name(one.evaluation) for one in found}
    decision = replace(
        decide(
            [assess(one, stage.config.gate) for one in found],
            judges.pop() if len(judges) == 1 else None,
            stage.params[POLICY] or None,
            stage.params[GENERATION],
        ),
        profile=stage.config.gate.profile,
        test_set=sets.pop() if len(sets) == 1 else "",
        looks=tuple(looked.values()),
        inputs=stage.inputs,
    )
    stage.report(DECISION, decision.to_json())
    made = read(stage.output(DECISION))
    count_looks(stage.workspace, made)
    why = render_gate(stage.workspace, made)
    stage.output("reports/gate.html").write_text(why, encoding="utf-8")
    html = render_report(stage.workspace, decision, stage.upstream)
    stage.output("reports/report.html").write_text(html, encoding="utf-8")
    stage.summary(f"{decision.decision}. {decision.sentence}")


def look(stage: Stage, algorithm: str) -> str:
    """The look at the test set that the evaluation of a policy was."""
    judge = read_json(stage.input(f"reports/evaluate/{algorithm}/metrics.json")).get("judge_digest")
    policy = manifest.digest(stage.input(f"models/policy/{algorithm}"))
    answers = columns(stage.input(f"reports/evaluate/{algorithm}/rows") / "rows.parquet").get("policy_response", ())
    return looks.look(policy, judge, answers)


def evidence(stage: Stage, algorithm: str, looked: Mapping[str, str]) -> Evidence:
    """Everything that the checks look at for one policy. looked: the looks of all candidates, by algorithm."""
    policy = stage.input(f"models/policy/{algorithm}")
    names = stage.config.align.algorithms
    evaluations = {str(name): read_json(stage.input(f"reports/evaluate/{name}/metrics.json")) for name in names}
    before = looks.looks_before(looks.name(evaluations[algorithm]), stage.params[JUDGED])
    rows = stage.input(f"reports/evaluate/{algorithm}/rows")
    return Evidence(
        algorithm=algorithm,
        candidates=len(looked),
        seed=stage.seed,
        evaluation=evaluations[algorithm],
        rows=columns(rows / "rows.parquet"),
        safety=columns(rows / "safety.parquet"),
        diversity=columns(rows / "diversity.parquet"),
        documents=columns(rows / "documents.parquet"),
        base=read_json(stage.input("reports/base/metrics.json")),
        sft=read_json(stage.input("reports/sft/metrics.json")),
        align=read_json(stage.input(f"reports/align/{algorithm}/metrics.json")),
        reward={c: read_json(stage.input(f"reports/reward/{c}/metrics.json")) for c in stage.config.reward.criteria},
        referee=read_json(stage.input("reports/referee/metrics.json")),
        validation=read_json(stage.input("reports/validate.json")),
        screening=read_json(stage.input("reports/screen.json")),
        receipt=stage.upstream[f"models/policy/{algorithm}"],
        policy_digest=manifest.digest(policy),
        champion=stage.params[POLICY] or None,
        uses=len(set[str]().union(*before) - {*looked.values()}),
        sharing=looks.sharing(looked[algorithm], looked.values(), before),
        test_sets={one.get("prompts_digest") for one in evaluations.values()},
    )


def columns(path: Path) -> dict[str, NDArray]:
    """The columns of a table but the prompts, by name; none where nothing could be measured and there is no table."""
    if not path.is_file():
        return {}
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "prompt"}


if __name__ == "__main__":
    run_stage(main)
