"""Promotion: the gate's decision, a compare-and-swap on the ledger, and MLflow's aliases as its mirror."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable
from rlhf.config import load_promotion
from rlhf.config.reading import PARAMS
from rlhf.errors import Busy, ConfigError, DataError, GateRefused, ServiceError
from rlhf.gate.approval import Approval, check, sign, signed_approval
from rlhf.gate.ledger import Champion, Ledger
from rlhf.tracking import champions
from rlhf.tracking.journal import stage_records
from rlhf.tracking.mirror import mirror, repairing
from rlhf.tracking.outputs import Output, verify
from rlhf.tracking.registration import register_outputs
from rlhf.tracking.registry import Registered, find, model_name
from rlhf.tracking.runs import Runs
from rlhf.tracking.served import require_served
from rlhf.tracking.standing import Standing, candidate, keep, passing, require_untouched
from rlhf.tracking.store import Store, connect, reaching


@dataclass(frozen=True)
class Promotion:
    """What a promotion or a rollback did."""

    changed: bool
    champion: Champion
    sentence: str


def promote(workspace: Path, *, approver: str = "", approval: Approval | None = None) -> Promotion:
    """Make the gate's winner the champion in place of the one that it was compared with.

    `approval` is one that a person gave in Prefect's form; where params.yaml asks for a signed one, that counts alone.
    `approver` is a name for the ledger where nobody has to approve. Raises GateRefused, DataError,
    ConfigError, Busy when another promotion came first, ServiceError when the registry does not answer: nothing is
    changed then.
    """
    work = steps(workspace, approver, approval)
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return ended.value


def steps(workspace: Path, approver: str = "", approval: Approval | None = None) -> Generator[str, None, Promotion]:
    """`promote`, which halts after each step and says which it was.

    The order is what makes it safe: what another promoter does, or a kill, between any two of them leaves one champion,
    and an alias or files that `mirror` repairs from the ledger.
    """
    decision = passing(workspace)
    output = candidate(workspace, decision)
    book = Ledger.of(workspace)
    current = book.current()
    if current and current.policy == decision.said.policy:
        said = f"{output.path} is already the champion, generation {current.generation}"
        return Promotion(False, current, said + _mirrored(workspace))
    require_untouched(workspace, decision)
    verify(output.directory, decision.said.policy)
    _require_same_champion(decision, current)
    approval = _approved(workspace, decision, output.key, approval)
    keep(workspace, decision)
    yield "verified"
    store, registered = _registered(workspace, output, first=current is None)
    yield "registered"
    _fetch_and_serve(workspace, store, registered, output.name)
    yield "served"
    name = approval.approver if approval else approver
    generation, _ = decision.champion
    with repairing(workspace), reaching(store.uri):
        champions.fetch(workspace, store, registered)  # who repaired meanwhile took its files for those of no champion
        champion = book.promote(output.key, decision.said.policy, str(registered), decision.digest, generation, name)
    yield "written"
    said = f"{output.path} is the champion, generation {champion.generation} ({registered})"
    return Promotion(True, champion, said + _mirrored(workspace, store))


def rollback(workspace: Path, *, expected_generation: int | None = None, approver: str = "") -> Promotion:
    """Make the champion before the current one champion again; where its files are here, the registry need not answer.

    Raises GateRefused when there is none, Busy when another promotion came first, ServiceError when its files are
    missing and the registry does not answer, DataError when that has none either.
    """
    book = Ledger.of(workspace)
    current = book.current()
    generation = current.generation if current else 0
    if (earlier := book.previous()) and not champions.whole(workspace, earlier.policy):
        mirror(workspace)  # the registry has its files
        if not champions.whole(workspace, earlier.policy):
            raise DataError(
                f"The files of {earlier.version}, the champion before, are neither here nor in MLflow. Nothing was "
                "changed. Promote another policy, or name the MLflow that holds it: MLFLOW_TRACKING_URI"
            )
    champion = book.rollback(generation if expected_generation is None else expected_generation, approver)
    said = f"{champion.version} is the champion again, generation {champion.generation}"
    return Promotion(True, champion, said + _mirrored(workspace))


def proposal(decision: Standing, approver: str, comment: str = "") -> Approval:
    """What `approver` says now by approving a decision."""
    generation, _ = decision.champion
    now = math.floor(time.time() * 1000) / 1000  # never later than it is
    return Approval(decision.digest, decision.said.policy, generation, approver, now, comment)


def approve(workspace: Path, approver: str, key: Path, comment: str = "") -> tuple[Standing, Approval, Path]:
    """Sign the decision to promote; return it, what was signed, and where that lies.

    Raises ConfigError where signatures do not count, GateRefused for one that would not, which is not kept.
    """
    rules = load_promotion(workspace / PARAMS)
    if rules.approval != "signed" or rules.approvers is None:
        raise ConfigError(
            f"promotion.approval of {workspace / PARAMS} is {rules.approval}, so a signature changes nothing. Set it "
            "to signed, and promotion.approvers to the file that says whose signatures count"
        )
    decision = passing(workspace)
    output, approval = candidate(workspace, decision), proposal(decision, approver, comment)
    check(approval, approval, trainers(workspace, output.key), rules.expires_days)
    return decision, approval, sign(workspace, approval, key, workspace / rules.approvers)


def trainers(workspace: Path, key: str) -> set[str]:
    """Who ran the training with a stage key, as git knows them; empty when that is not known here."""
    records = stage_records(workspace, key)
    return {record["user"] for record in records if record["kind"] == "start" and record.get("user")}


def _require_same_champion(decision: Standing, current: Champion | None) -> None:
    in_use = (current.generation, current.policy) if current else (0, "")
    if decision.champion != in_use:
        raise GateRefused(
            f"The decision was taken against the champion of generation {decision.champion[0]}, and that of generation "
            f"{in_use[0]} is in use. Run `rlhf run` again: it compares with the champion in use"
        )


def _approved(workspace: Path, decision: Standing, key: str, given: Approval | None) -> Approval | None:
    """The approval by which the champion may be changed; None where none is asked for. Raises GateRefused."""
    rules = load_promotion(workspace / PARAMS)
    wanted, trained_by = proposal(decision, ""), trainers(workspace, key)
    if rules.approvers is not None and rules.approval == "signed":
        return signed_approval(workspace, wanted, workspace / rules.approvers, trained_by, rules.expires_days)
    if given:
        check(given, wanted, trained_by, rules.expires_days)
    elif rules.approval == "form":
        raise GateRefused("A person has to approve: answer the form of the deployment `promote` in Prefect")
    return given


def _fetch_and_serve(workspace: Path, store: Store, registered: Registered, algorithm: str) -> None:
    """Bring the registered files here and see that they answer. Files that do not are taken away again; meanwhile
    nobody repairs, who would take them for those of no champion."""
    with repairing(workspace), reaching(store.uri):
        fetched = champions.fetch(workspace, store, registered)
        files = workspace / champions.FILES / registered.digest
        try:
            require_served(workspace, algorithm, files)
        except (GateRefused, DataError):
            if fetched:
                durable.remove(files)
            raise


def _mirrored(workspace: Path, store: Store | None = None) -> str:
    """Reconcile; return what is to be said when the registry does not answer. The ledger stands whether it does."""
    try:
        mirror(workspace, store)
    except (ServiceError, Busy, DataError):  # the champion is changed, whatever is wrong there
        return ". MLflow does not know it yet: `rlhf sync` tells it"
    return ""


def _registered(workspace: Path, output: Output, first: bool) -> tuple[Store, Registered]:
    """The registered version of the policy, made when there is none. Raises GateRefused where the `first`
    promotion here finds a champion."""
    store = connect(workspace)
    with reaching(store.uri):
        name = model_name(store, "policy")
        found = find(store, name, output.key, output.digest)
        if not found:
            found = register_outputs(workspace, store, Runs(store, workspace)).get(output.digest)
        champion = store.client.get_registered_model(name).aliases.get("champion") if found and first else None
    if not found:
        raise DataError(f"{output.path} could not be registered: it is not among the models of {workspace}")
    if champion:
        raise GateRefused(
            f"MLflow has a champion, version {champion} of {name}, of which the ledger of this workspace knows "
            "nothing. Bring .rlhf/ledger.db here from where it was promoted, or take the alias away to begin anew"
        )
    return store, found
