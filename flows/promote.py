"""The flow `promote`: the gate's decision, a person's approval when it is asked for, then the compare-and-swap."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed, State

from flows.records import gate_report, promote_apart
from rlhf.config import load_promotion
from rlhf.errors import Exit
from rlhf.gate.approval import DAY
from rlhf.pipeline.graph import PARAMS
from rlhf.tracking.standing import standing


class Approval(RunInput):
    """The form that a person fills in, in Prefect's page of the paused run."""

    approve: bool
    approver: str  # who answers for it; the ledger keeps the name, and it is not the trainer's
    comment: str = ""


@flow(name="promote", persist_result=False)
def promote(workspace: str = ".", approval: bool = False) -> State:
    """Make the gate's winner the champion.

    What is approved is the decision that was shown: it is refused when another stands there by then, when another
    promotion came, or when nobody answered within `promotion.expires_days`.
    """
    place = Path(workspace).resolve()
    shown = standing(place)
    if shown is None or shown.said.decision != "PROMOTE":
        verdict = f"The gate says {shown.said.decision}: {shown.said.sentence}" if shown else "No gate has decided."
        return Failed(message=f"{Exit.GATE_REFUSED.name}: {verdict} Nothing is promoted")
    rules = load_promotion(place / PARAMS)
    if not approval or rules.approval == "signed":  # a signature says more than a form
        return ended(*promote_apart(place))
    report = gate_report(shown.said)
    create_markdown_artifact(report, key="approval", description=shown.said.sentence)
    form = Approval.with_initial_data(description=report, approve=False)
    answer = pause_flow_run(wait_for_input=form, timeout=int(rules.expires_days * DAY), poll_interval=1)
    if not answer.approve:
        return Failed(message=f"{Exit.GATE_REFUSED.name}: {answer.approver} refused. {answer.comment}".strip())
    return ended(*promote_apart(place, answer.approver, shown.digest))


def ended(code: Exit, line: str) -> State:
    """The state that Prefect shows of a promotion, by its exit code and what it said."""
    return Completed(message=line) if code == Exit.DONE else Failed(message=f"{code.name}: {line}")
