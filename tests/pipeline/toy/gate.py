"""Promotes the first model that is longer than the limit."""

from rlhf.pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """See the module."""
    sizes = {
        model.name: len((model / "model.txt").read_text()) for model in sorted(stage.input("models").glob("[!.]*"))
    }
    limit = stage.params["gate"]["limit"]
    check = {"name": "size", "group": "size", "low": None, "high": None, "n": 1, "threshold": limit, "reason": ""}
    candidates = {
        name: {"decision": "REJECT", "checks": [{**check, "value": size, "passed": size > limit}]}
        for name, size in sizes.items()
    }
    stage.metrics({"decision": "REJECT", "sentence": "No model is good.", "winner": None, "candidates": candidates})
    stage.output("report.txt").write_text(f"{sizes}\n{sorted(stage.upstream)}\n")


if __name__ == "__main__":
    run_stage(main)
