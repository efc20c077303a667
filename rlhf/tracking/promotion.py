"""Promotion: the gate's decision, a compare-and-swap on the ledger, and MLflow's aliases as its mirror."""

import math
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable
from rlhf.config import load_promotion
from rlhf.errors import Busy, ConfigError, DataError, GateRefused, ServiceError
from rlhf.gate.approval import Approval, check, sign, signed_approval, verified
from rlhf.gate.ledger import Champion, Ledger
from rlhf.tracking import champions
from rlhf.tracking.journal import read
from rlhf.tracking.locks import locked
from rlhf.tracking.outputs import Output, find_output, verify
from rlhf.tracking.registry import Registered, find, register_outputs
from rlhf.tracking.runs import Runs, stage_journal
from rlhf.tracking.served import require_served
from rlhf.tracking.standing import DECISION, PARAMS, Standing, keep, require_untouched, standing
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
    if current and current.policy == decision.policy:
        said = f"{output.path} is already the champion, generation {current.generation}"
        return Promotion(False, current, said + _mirrored(workspace))
    require_untouched(workspace, decision)
    verify(output.directory, decision.policy)
    _require_same_champion(decision, current)
    approval = _approved(workspace, decision, output.key, approval)
    keep(workspace, decision)
    yield "verified"
    store, registered = _registered(workspace, output)
    if registered.digest != decision.policy:
        raise GateRefused(
            f"{registered} holds other bytes than were evaluated (digest {registered.digest[:12]}, not "
            f"{decision.policy[:12]}): the same work was done twice with another result. Train anew: align.seed"
        )
    if current is None and (alias := store.client.get_registered_model(registered.name).aliases.get("champion")):
        raise GateRefused(
            f"MLflow has a champion, version {alias} of {registered.name}, of which the ledger of this workspace knows "
            "nothing. Bring .rlhf/ledger.db here from where it was promoted, or take the alias away to begin anew"
        )
    yield "registered"
    _fetch_and_serve(workspace, store, registered, output.name)
    yield "served"
    name = approval.approver if approval else approver
    generation, _ = decision.champion
    champion = book.promote(output.key, decision.policy, str(registered), decision.digest, generation, name)
    yield "written"
    said = f"{output.path} is the champion, generation {champion.generation} ({registered})"
    return Promotion(True, champion, said + _mirrored(workspace, store))


def rollback(workspace: Path, *, expected_generation: int | None = None, approver: str = "") -> Promotion:
    """Make the champion before the current one champion again; where its files are here, the registry need not answer.

    Raises GateRefused when there is none, Busy when another promotion came first, ServiceError when its files are
    missing and the registry does not answer.
    """
    book = Ledger.of(workspace)
    current = book.current()
    generation = current.generation if current else 0
    if (earlier := book.previous()) and not champions.whole(workspace, earlier.policy):
        reconcile(workspace)  # the registry has its files
    champion = book.rollback(generation if expected_generation is None else expected_generation, approver)
    said = f"{champion.version} is the champion again, generation {champion.generation}"
    return Promotion(True, champion, said + _mirrored(workspace))


def reconcile(workspace: Path) -> list[str]:
    """Make aliases and files agree with the ledger and the gate; return what was changed. Raises ServiceError."""
    return mirror(workspace, connect(workspace))


def mirror(workspace: Path, store: Store) -> list[str]:
    """Make the aliases of `store`, and the champions' files here, agree with the ledger; return what was changed.

    One process at a time: of two, the slower would set what the ledger no longer says.
    """
    with _repairing(workspace), reaching(store.uri):
        book = Ledger.of(workspace)
        entries = {"champion": book.current(), "previous": book.previous()}
        keys = {alias: entry.candidate_key for alias, entry in entries.items() if entry}
        with suppress(GateRefused, DataError):  # no candidate: the alias stays with the last one
            keys["candidate"] = candidate(workspace, passing(workspace)).key
        name = f"{store.prefix}-policy"
        versions = {alias: version for alias, key in keys.items() if (version := find(store, name, key))}
        known = store.client.get_registered_model(name).aliases if versions else {}
        changed = [alias for alias, version in versions.items() if str(known.get(alias)) != version.version]
        for alias in changed:
            store.client.set_registered_model_alias(name, alias, versions[alias].version)
        if entries["champion"] and not entries["previous"] and "previous" in known:
            store.client.delete_registered_model_alias(name, "previous")
            changed.append("previous")
        for alias in entries.keys() & versions.keys():
            if champions.fetch(workspace, store, versions[alias]):
                changed.append(f"{champions.FILES}/{versions[alias].digest}")
        champions.forget(workspace, but={entry.policy for entry in entries.values() if entry})
        return changed


def passing(workspace: Path) -> Standing:
    """The decision of the gate to promote. Raises GateRefused, naming the checks in the way, or DataError."""
    decision = standing(workspace)
    if decision is None:
        raise DataError(f"{workspace / DECISION} does not exist. Run the pipeline first: `rlhf run`")
    if decision.verdict != "PROMOTE":
        raise GateRefused(decision.refusal())
    return decision


def candidate(workspace: Path, decision: Standing) -> Output:
    """The policy that a decision is about. Raises GateRefused when another stands in its place."""
    output = find_output(workspace, f"models/policy/{decision.winner}")
    if output is None or output.digest != decision.policy:
        raise GateRefused(
            f"models/policy/{decision.winner} is not the policy that was evaluated (digest {decision.policy[:12]}), so "
            "the decision does not speak of it. Run `rlhf run`, then promote"
        )
    return output


def proposal(decision: Standing, approver: str, comment: str = "") -> Approval:
    """What `approver` says now by approving a decision."""
    generation, _ = decision.champion
    now = math.floor(time.time() * 1000) / 1000  # never later than it is
    return Approval(decision.digest, decision.policy, generation, approver, now, comment)


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
    path = sign(workspace, approval, key)
    try:
        verified(path, workspace / rules.approvers)
    except GateRefused:
        path.unlink()
        raise
    return decision, approval, path


def trainers(workspace: Path, key: str) -> set[str]:
    """Who ran the training with a stage key, as git knows them; empty when that is not known here."""
    journal = stage_journal(workspace, key)
    records = read(journal) if journal.exists() else iter(())
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
    with _repairing(workspace):
        fetched = champions.fetch(workspace, store, registered)
        files = workspace / champions.FILES / registered.digest
        try:
            require_served(workspace, algorithm, files)
        except (GateRefused, DataError):
            if fetched:
                durable.remove(files)
            raise


def _repairing(workspace: Path) -> AbstractContextManager[None]:
    """Held by the one process that changes aliases and champions' files."""
    return locked(workspace / ".rlhf/mirror.lock", 600.0, "repairs the aliases")


def _mirrored(workspace: Path, store: Store | None = None) -> str:
    """Reconcile; return what is to be said when the registry does not answer. The ledger stands whether it does."""
    try:
        mirror(workspace, store or connect(workspace))
    except (ServiceError, Busy, DataError):  # the champion is changed, whatever is wrong there
        return ". MLflow does not know it yet: `rlhf sync` tells it"
    return ""


def _registered(workspace: Path, output: Output) -> tuple[Store, Registered]:
    store = connect(workspace)
    with reaching(store.uri):
        name = f"{store.prefix}-policy"
        found = find(store, name, output.key)
        if not found:
            found = register_outputs(workspace, store, Runs(store, workspace)).get(output.digest)
    if not found:
        raise DataError(f"{output.path} could not be registered: it is not among the models of {workspace}")
    return store, found
