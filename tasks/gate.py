"""gate: may the best policy be promoted? Checks each one, decides, and writes the report. A refusal is a result."""

from pathlib import Path

import pyarrow.parquet
from numpy.typing import NDArray

from rlhf import manifest
from rlhf.gate.decision import assess, decide
from rlhf.gate.evidence import Evidence
from rlhf.pipeline.champion import GENERATION, POLICY
from rlhf.pipeline.stage import Stage, run_stage
from rlhf.report.html import render_report
from rlhf.report.summary import read_json


def main(stage: Stage) -> None:
    """Write reports/gate/decision.json and reports/report.html."""
    algorithms = stage.config.align.algorithms
    found = [evidence(stage, name, len(algorithms)) for name in algorithms]
    judges = {one.evaluation.get("judge") for one in found}
    decision = decide(
        [assess(one, stage.config.gate) for one in found],
        judges.pop() if len(judges) == 1 else None,
        stage.params[POLICY] or None,
        stage.params[GENERATION],
    )
    stage.report("reports/gate/decision.json", decision.to_json())
    html = render_report(stage.workspace, decision, stage.upstream)
    stage.output("reports/report.html").write_text(html, encoding="utf-8")
    stage.summary(f"{decision.decision}. {decision.sentence}")


def evidence(stage: Stage, algorithm: str, candidates: int) -> Evidence:
    """Everything that the checks look at for one policy."""
    policy = stage.input(f"models/policy/{algorithm}")
    rows = stage.input(f"reports/evaluate/{algorithm}/rows")
    return Evidence(
        algorithm=algorithm,
        candidates=candidates,
        seed=stage.seed,
        evaluation=read_json(stage.input(f"reports/evaluate/{algorithm}/metrics.json")),
        rows=columns(rows / "rows.parquet"),
        safety=columns(rows / "safety.parquet"),
        diversity=columns(rows / "diversity.parquet"),
        documents=columns(rows / "documents.parquet"),
        reward={c: read_json(stage.input(f"reports/reward/{c}/metrics.json")) for c in stage.config.reward.criteria},
        validation=read_json(stage.input("reports/validate.json")),
        receipt=stage.upstream[f"models/policy/{algorithm}"],
        policy_digest=manifest.digest(policy),
        champion=stage.params[POLICY] or None,
    )


def columns(path: Path) -> dict[str, NDArray]:
    """The columns of a table but the prompts, by name; none where nothing could be measured and there is no table."""
    if not path.is_file():
        return {}
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "prompt"}


if __name__ == "__main__":
    run_stage(main)
