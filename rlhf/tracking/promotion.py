"""Promotion: the gate's decision, a compare-and-swap on the ledger, and the MLflow aliases as its mirror."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import DataError, GateRefused
from rlhf.gate.ledger import Champion, Ledger
from rlhf.tracking.outputs import Output, find_output
from rlhf.tracking.registry import Registered, find, register_outputs
from rlhf.tracking.runs import Runs
from rlhf.tracking.store import Store, connect, reaching

DECISION = "reports/gate/decision.json"


@dataclass(frozen=True)
class Promotion:
    """What a promotion or a rollback did."""

    changed: bool
    champion: Champion
    sentence: str


def ledger(workspace: Path) -> Ledger:
    """The promotion ledger of a workspace."""
    return Ledger(workspace / ".rlhf/ledger.db")


def candidate(workspace: Path) -> Output:
    """The policy that the gate lets through.

    Raises GateRefused, naming the checks that failed, when it lets none through, or when the policy that stands in the
    workspace is not the one that was evaluated; DataError when there is no decision.
    """
    decision = _read(workspace / DECISION)
    if decision["decision"] != "PROMOTE":
        raise GateRefused(f"The gate says {decision['decision']}, so nothing is promoted. {_reasons(decision)}")
    winner = decision["winner"]
    output = find_output(workspace, f"models/policy/{winner}")
    evaluated = _read(workspace / f"reports/evaluate/{winner}/metrics.json")["policy_digest"]
    if output is None or output.digest != evaluated:
        raise GateRefused(
            f"models/policy/{winner} is not the policy that was evaluated (digest {evaluated[:12]}), so the decision "
            "does not speak of it. Run `rlhf run`, then promote"
        )
    return output


def promote(workspace: Path, *, expected_generation: int | None = None, approver: str = "") -> Promotion:
    """Make the gate's winner the champion.

    `expected_generation` is the one the decision was taken on; None: the current one. Raises GateRefused, Busy when
    another promotion came first, ServiceError when the registry does not answer: before the ledger changes, or after
    it, and then `rlhf sync` repairs the aliases.
    """
    output = candidate(workspace)
    report = hashlib.sha256((workspace / DECISION).read_bytes()).hexdigest()
    book = ledger(workspace)
    current = book.current()
    generation = current.generation if current else 0
    if current and current.candidate_key == output.key:
        reconcile(workspace)
        return Promotion(False, current, f"{output.path} is already the champion, generation {generation}")
    store, registered = _registered(workspace, output)
    expected = generation if expected_generation is None else expected_generation
    champion = book.promote(output.key, str(registered), report, expected, approver)
    mirror(workspace, store)
    return Promotion(True, champion, f"{output.path} is the champion, generation {champion.generation} ({registered})")


def rollback(workspace: Path, *, expected_generation: int | None = None, approver: str = "") -> Promotion:
    """Make the champion before the current one champion again. Raises as `promote` does."""
    book = ledger(workspace)
    current = book.current()
    generation = current.generation if current else 0
    champion = book.rollback(generation if expected_generation is None else expected_generation, approver)
    reconcile(workspace)
    return Promotion(True, champion, f"{champion.version} is the champion again, generation {champion.generation}")


def reconcile(workspace: Path) -> list[str]:
    """Make the MLflow aliases agree with the ledger and the gate; return what was changed. Raises ServiceError."""
    return mirror(workspace, connect(workspace))


def mirror(workspace: Path, store: Store) -> list[str]:
    """Make the aliases of `store` agree with the ledger and the gate; return those that were changed."""
    name = f"{store.prefix}-policy"
    book = ledger(workspace)
    wanted = {"champion": book.current(), "previous": book.previous()}
    keys = {alias: entry.candidate_key for alias, entry in wanted.items() if entry}
    with suppress(GateRefused, DataError):  # no candidate: the alias stays with the last one
        keys["candidate"] = candidate(workspace).key
    with reaching(store.uri):
        versions = {alias: version for alias, key in keys.items() if (version := find(store, name, key))}
        return [alias for alias, version in versions.items() if _set_alias(store, alias, version)]


def _set_alias(store: Store, alias: str, registered: Registered) -> bool:
    model = store.client.get_registered_model(registered.name)
    if str(model.aliases.get(alias)) == registered.version:
        return False
    store.client.set_registered_model_alias(registered.name, alias, registered.version)
    return True


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


def _reasons(decision: dict[str, Any]) -> str:
    """The sentence of the decision and the checks that stop it."""
    failed = [
        f"{name}: {check['name']} ({check['reason']})"
        for name, entry in decision["candidates"].items()
        for check in entry["checks"]
        if check.get("blocking", True) and not check["passed"]
    ]
    return " ".join([decision["sentence"], *(["Not passed: " + "; ".join(failed)] if failed else [])])


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Run the pipeline first: `rlhf run`") from None
