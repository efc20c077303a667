"""screen: alarms about annotators and sources that look as if they acted in bad faith. No row is changed.

What it found is in reports/screen.json, which the gate alone reads, so another threshold trains nothing again.
Who learns from judgements waits for reports/screened.json, which says no more than what was screened.
"""

from collections.abc import Sequence

from rlhf import durable
from rlhf.data.prompts import with_hashes
from rlhf.data.screening import screen
from rlhf.data.tables import FEEDBACK, read_tables
from rlhf.errors import DataError
from rlhf.pipeline.stage import Stage, run_stage

DATA = "data/clean"


def main(stage: Stage) -> None:
    """Write both reports. Raises DataError on an alarm where `on_alarm` is fail: nothing is trained then."""
    config = stage.config.screen
    tables = read_tables(stage.input(DATA), FEEDBACK)
    found = screen({table: with_hashes(rows) for table, rows in tables.items()}, config)
    alarms = [f"{alarm['name']} ({alarm['found']})" for alarm in found["alarms"]]
    if alarms and config.on_alarm == "fail":
        raise DataError(f"{raised(alarms)}\nTo go on all the same, set screen.on_alarm to warn")
    stage.report("reports/screen.json", found)
    durable.write_json(stage.output("reports/screened.json"), {DATA: stage.inputs[DATA]})
    stage.summary(raised(alarms) if alarms else f"{found['judgements']:,} judgements raise no alarm")


def raised(alarms: Sequence[str]) -> str:
    """The alarms, a line each, and what to do."""
    listed = "".join(f"  {' '.join(alarm.split())}\n" for alarm in alarms)
    return (
        f"Feedback that may have been given in bad faith:\n{listed}Look at these judgements. Name an annotator in "
        "validate.revoked of params.yaml to learn without what that one said, or the alarm, as kind/who/name, in "
        "gate.accepted_alarms to let it stand"
    )


if __name__ == "__main__":
    run_stage(main)
