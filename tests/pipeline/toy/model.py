"""The rows repeated as often as the parameter says, with a loss a step."""

from rlhf.pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """See the module."""
    repeats = stage.params[f"model.{stage.item}"]["repeats"]
    rows = (stage.input("data/rows") / "rows.txt").read_text()
    curve = ["step,loss"]
    for step in range(repeats):
        stage.log(step, {"loss": 1.0 / (step + 1)})
        stage.progress(step + 1, repeats, "steps")
        curve.append(f"{step},{1.0 / (step + 1)}")
    (stage.output(f"models/{stage.item}") / "model.txt").write_text(rows * repeats)
    stage.output(f"reports/model/{stage.item}.csv").write_text("\n".join(curve) + "\n")


if __name__ == "__main__":
    run_stage(main)
