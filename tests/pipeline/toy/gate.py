"""Promotes the first model that is longer than the limit."""

from rlhf.gate.records import Candidate, Check, Decision
from rlhf.pipeline.stage import Stage, run_stage

VERDICT, SENTENCE, WINNER = "REJECT", "No model is good.", None


def main(stage: Stage) -> None:
    """See the module."""
    sizes = {
        model.name: len((model / "model.txt").read_text()) for model in sorted(stage.input("models").glob("[!.]*"))
    }
    limit = stage.params["gate"]["limit"]
    checks = {
        name: Check(
            outcome="pass" if size > limit else "fail",
            reason="",
            name="size",
            group="size",
            value=size,
            n=1,
            threshold=limit,
        )
        for name, size in sizes.items()
    }
    candidates = tuple(Candidate(name, name, VERDICT, None, (check,)) for name, check in checks.items())
    stage.metrics(Decision(VERDICT, SENTENCE, WINNER, None, candidates, None, 0).to_json())
    stage.output("report.txt").write_text(f"{sizes}\n{sorted(stage.upstream)}\n")


if __name__ == "__main__":
    run_stage(main)
