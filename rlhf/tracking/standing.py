"""The gate's decision as it stands in a workspace: read, known by its bytes, and seen not to have been edited since."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf import durable, manifest
from rlhf.config.reading import PARAMS, look_up, read_yaml
from rlhf.errors import DataError, GateRefused, require_format
from rlhf.gate.ledger import Ledger
from rlhf.gate.records import DECISION, FORMAT, Decision
from rlhf.locks import hold
from rlhf.tracking.outputs import DvcLock, Output, find_output

PAGES = ("reports/gate.html", "reports/report.html")  # the same for a reader
DECISIONS = ".rlhf/decisions"  # a directory for each decision, by its digest


@dataclass(frozen=True)
class Standing:
    """What reports/gate/decision.json says to who promotes."""

    digest: str  # sha256 of the file
    said: Decision

    @property
    def champion(self) -> tuple[int, str]:
        """Generation and digest of the champion that it was taken against, 0 and "" before the first."""
        return self.said.generation, self.said.champion or ""


def read(path: Path) -> Standing:
    """What a file says. Raises FileNotFoundError, and DataError for one that is damaged."""
    content = path.read_bytes()
    try:
        raw = json.loads(content)
        require_format(path, raw.get("format"), FORMAT)
        said = Decision.from_json(raw)
        if said.decision == "PROMOTE" and not said.policy:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is not a decision of the gate. Delete it and run again: `rlhf run`") from None
    return Standing(hashlib.sha256(content).hexdigest(), said)


def standing(workspace: Path) -> Standing | None:
    """The decision of a workspace; None when no gate has decided. Raises DataError for a file that is damaged."""
    try:
        return read(workspace / DECISION)
    except FileNotFoundError:
        return None


def decided(workspace: Path) -> Standing:
    """The decision of a workspace. Raises DataError where no gate has decided, and for a file that is damaged."""
    if (found := standing(workspace)) is None:
        raise DataError(f"{workspace / DECISION} does not exist. Run the pipeline first: `rlhf run`")
    return found


def passing(workspace: Path) -> Standing:
    """The decision of the gate to promote. Raises GateRefused, naming the checks in the way, or DataError."""
    decision = decided(workspace)
    if decision.said.decision != "PROMOTE":
        raise GateRefused(_refusal(decision.said))
    return decision


def candidate(workspace: Path, decision: Standing) -> Output:
    """The policy that a decision is about. Raises GateRefused when another stands in its place."""
    path, digest = f"models/policy/{decision.said.winner}", decision.said.policy
    output = find_output(workspace, path)
    if output is None or output.digest != digest:
        raise GateRefused(
            f"{path} is not the policy that was evaluated ({digest[:12]}), so the decision does not speak of it. "
            "Run `rlhf run`, then promote"
        )
    return output


def require_untouched(workspace: Path, decision: Standing) -> None:
    """Raises GateRefused when the decision, what it rests on, or the gate's limits are not those of the last run."""
    ran = DvcLock(workspace).stages.get("gate")
    if ran is None:
        raise GateRefused("dvc.lock does not know that `gate` ran, so its reports prove nothing. Run `rlhf run`")
    for entry in ran["outs"]:
        file = workspace / entry["path"]
        if not file.is_file() or manifest.md5(file) != entry["md5"]:
            raise GateRefused(f"{entry['path']} was edited after `gate` wrote it. Run `rlhf run`, then promote")
    for path, digest in decision.said.inputs.items():
        if _digest(workspace / path) != digest:
            raise GateRefused(f"{path} is not what the gate decided by. Run `rlhf run`, then promote")
    ran_with = ran.get("params", {}).get(PARAMS, {})
    now = read_yaml(workspace / PARAMS) if ran_with else {}
    changed = [key for key, value in ran_with.items() if not _holds(now, key, value)]
    if changed:
        raise GateRefused(f"{PARAMS} is no longer what the gate decided by: {', '.join(changed)}. Run `rlhf run`")


def keep(workspace: Path, decision: Standing) -> None:
    """Keep a copy of the decision, and of its pages, under its digest: what the ledger and approvals speak of.

    Raises Busy when another process keeps it for very long.
    """
    target = workspace / DECISIONS / decision.digest
    with hold(target.parent / ".lock", f"The directory {target.parent}", 60.0):
        if not is_kept(target):
            temporary = durable.partial(target)
            durable.remove(temporary)
            temporary.mkdir()
            for name in (DECISION, *PAGES):
                if (workspace / name).is_file():
                    shutil.copy(workspace / name, temporary)
            durable.publish(temporary, target)


def count_looks(workspace: Path, decision: Standing) -> None:
    """Note the decision in the ledger, with the looks at its test set. The same decision again changes nothing."""
    said = decision.said
    Ledger.of(workspace).record(decision.digest, said.test_set, said.looks, said.decision)


def is_kept(directory: Path) -> bool:
    """Whether a directory of kept decisions holds the decision that it is named after."""
    file = directory / Path(DECISION).name
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == directory.name


def _refusal(decision: Decision) -> str:
    """Why nothing is promoted by a decision that is not PROMOTE: its sentence, and the checks in the way."""
    stopping = [(candidate, check) for candidate in decision.candidates for check in candidate.checks if check.stops]
    said = f"The gate says {decision.decision}, so nothing is promoted. {decision.sentence}"
    return "\n  ".join([said, *(f"not passed by {c.algorithm}: {k.name} ({k.reason})" for c, k in stopping)])


def _digest(path: Path) -> str | None:
    """The digest of an output; None where it is missing or damaged."""
    try:
        return manifest.digest(path)
    except DataError:
        return None


def _holds(tree: Any, key: str, value: Any) -> bool:
    try:
        return look_up(tree, key) == value
    except KeyError:
        return False
