"""Every line of the source with a prefix."""

from rlhf.pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """See the module."""
    lines = stage.input(stage.params["rows"].get("source", "source.txt")).read_text().splitlines()
    text = "".join(f"{stage.params['rows']['prefix']}{line}\n" for line in lines)
    (stage.output("data/rows") / "rows.txt").write_text(text)
    stage.metrics({"rows": len(lines), "share": 1 / 3})
    stage.summary(f"{len(lines)} rows")


if __name__ == "__main__":
    run_stage(main)
