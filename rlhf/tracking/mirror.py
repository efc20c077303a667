"""MLflow's aliases and the champions' files: a mirror of the ledger, which alone says who is the champion."""

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from rlhf.errors import DataError, GateRefused
from rlhf.gate.ledger import Ledger, previous
from rlhf.locks import hold
from rlhf.tracking import champions
from rlhf.tracking.registry import find, model_name
from rlhf.tracking.standing import candidate, passing
from rlhf.tracking.store import Store, connect, reaching


def mirror(workspace: Path, store: Store | None = None) -> list[str]:
    """Make the aliases of `store`, or of the workspace's, and the champions' files here, agree with the ledger; return
    what was changed. Raises ServiceError.

    One process at a time: of two, the slower would set what the ledger no longer says.
    """
    store = store or connect(workspace)
    with repairing(workspace), reaching(store.uri):
        history = Ledger.of(workspace).history()
        entries = {"champion": history[-1] if history else None, "previous": previous(history)}
        named = {alias: (entry.candidate_key, entry.policy) for alias, entry in entries.items() if entry}
        with suppress(GateRefused, DataError):  # no candidate: the alias stays with the last one
            output = candidate(workspace, passing(workspace))
            named["candidate"] = output.key, output.digest
        name = model_name(store, "policy")
        versions = {alias: version for alias, which in named.items() if (version := find(store, name, *which))}
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


def repairing(workspace: Path) -> AbstractContextManager[None]:
    """Held by the one process that changes aliases, champions' files, or who is the champion."""
    return hold(workspace / ".rlhf/mirror.lock", f"The list of champions of {workspace}", 600.0)
