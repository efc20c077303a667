"""The flow `promote`: the gate's decision, a person's approval when it is asked for, then the compare-and-swap."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed, State

from flows.records import gate_report, promote_apart, read_decision
from rlhf.errors import Exit
from rlhf.gate.ledger import Ledger

WAIT = 7 * 24 * 3600  # seconds that an approval may take


class Approval(RunInput):
    """The form that a person fills in, in Prefect's page of the paused run."""

    approve: bool
    approver: str  # who answers for it; the ledger keeps the name
    comment: str = ""


@flow(name="promote", persist_result=False)
def promote(workspace: str = ".", approval: bool = False, wait: float = WAIT) -> State:
    """Make the gate's winner the champion. The swap is refused when another promotion came while this one waited."""
    place = Path(workspace).resolve()
    decision = read_decision(place)
    if decision is None or decision["decision"] != "PROMOTE":
        verdict = (
            f"The gate says {decision['decision']}: {decision['sentence']}" if decision else "No gate has decided."
        )
        return Failed(message=f"{Exit.GATE_REFUSED.name}: {verdict} Nothing is promoted")
    champion = Ledger(place / ".rlhf" / "ledger.db").current()
    generation, approver = champion.generation if champion else 0, ""
    if approval:
        create_markdown_artifact(gate_report(decision), key="approval", description=decision["sentence"])
        form = Approval.with_initial_data(description=gate_report(decision), approve=False)
        answer = pause_flow_run(wait_for_input=form, timeout=int(wait), poll_interval=1)
        if not answer.approve:
            return Failed(message=f"{Exit.GATE_REFUSED.name}: {answer.approver} refused. {answer.comment}".strip())
        approver = answer.approver
    code, line = promote_apart(place, generation, approver)
    return Completed(message=line) if code == Exit.DONE else Failed(message=f"{code.name}: {line}")
