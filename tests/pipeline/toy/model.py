"""The rows repeated as often as the size says, with a loss a step."""

from rlhf.pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """See the module."""
    size = stage.params[f"model.{stage.item}"]["size"]
    rows = (stage.input("data/rows") / "rows.txt").read_text()
    curve = ["step,loss"]
    for step in range(size):
        stage.log(step, {"loss": 1.0 / (step + 1)})
        stage.progress(step + 1, size, "steps")
        curve.append(f"{step},{1.0 / (step + 1)}")
    (stage.output(f"models/{stage.item}") / "model.txt").write_text(rows * size)
    stage.output(f"reports/model/{stage.item}.csv").write_text("\n".join(curve) + "\n")


if __name__ == "__main__":
    run_stage(main)
