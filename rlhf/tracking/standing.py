"""The gate's decision as it stands in a workspace: read, known by its bytes, and seen not to have been edited since."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf import durable, manifest
from rlhf.config.reading import PARAMS, look_up, read_yaml
from rlhf.errors import DataError, GateRefused, require_format
from rlhf.gate.records import DECISION, FORMAT
from rlhf.locks import hold
from rlhf.tracking.outputs import DvcLock, Output, find_output

PAGES = ("reports/gate.html", "reports/report.html")  # the same for a reader
DECISIONS = ".rlhf/decisions"  # a directory for each decision, by its digest


@dataclass(frozen=True)
class Standing:
    """What reports/gate/decision.json says to who promotes."""

    digest: str  # sha256 of the file
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, content: bytes) -> "Standing":
        """What the bytes of the file say."""
        return cls(hashlib.sha256(content).hexdigest(), json.loads(content))

    @property
    def verdict(self) -> str:
        return str(self.raw["decision"])

    @property
    def sentence(self) -> str:
        return str(self.raw["sentence"])

    @property
    def winner(self) -> str | None:
        return self.raw["winner"]

    @property
    def policy(self) -> str:
        """The digest of the winner's files. Raises DataError for a decision that lacks it."""
        try:
            return str(self.raw["candidates"][self.winner]["policy"])
        except (KeyError, TypeError):
            raise DataError(f"{DECISION} does not say which files it is about. Run `rlhf run`") from None

    @property
    def champion(self) -> tuple[int, str]:
        """Generation and digest of the champion that it was taken against, 0 and "" before the first."""
        return self.raw.get("generation", -1), self.raw.get("champion") or ""

    @property
    def looks(self) -> list[str]:
        """The looks at its test set; of a decision that does not tell them, the digests of its candidates."""
        told = self.raw.get("looks")
        return told or [str(one["policy"]) for one in self.raw["candidates"].values() if one.get("policy")]

    @property
    def test_set(self) -> str:
        """The name of the set of prompts that they were judged on."""
        return str(self.raw.get("test_set") or "")

    @property
    def inputs(self) -> Mapping[str, str]:
        """What it rests on: digests by path. Raises DataError for a decision that does not say."""
        if not self.raw.get("inputs"):
            raise DataError(f"{DECISION} does not say what it rests on. Run `rlhf run`")
        return self.raw["inputs"]

    def refusal(self) -> str:
        """Why nothing is promoted by a decision that is not PROMOTE: its sentence, and the checks in the way."""
        failed = [
            f"{name}: {check['name']} ({check['reason']})"
            for name, entry in self.raw["candidates"].items()
            for check in entry["checks"]
            if check.get("blocking", True) and not check["passed"]
        ]
        said = f"The gate says {self.verdict}, so nothing is promoted. {self.sentence}"
        return "\n  ".join([said, *(f"not passed by {one}" for one in failed)])


def standing(workspace: Path) -> Standing | None:
    """The decision of a workspace; None when no gate has decided. Raises DataError for a file that is damaged."""
    path = workspace / DECISION
    try:
        found = Standing.of(path.read_bytes())
        raw = found.raw
        require_format(path, raw.get("format", FORMAT), FORMAT)
        if not (found.verdict and found.sentence and isinstance(raw["candidates"], dict)) or "winner" not in raw:
            raise KeyError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is not a decision of the gate. Delete it and run again: `rlhf run`") from None
    return found


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


def require_untouched(workspace: Path, decision: Standing) -> None:
    """Raises GateRefused when the decision, what it rests on, or the gate's limits are not those of the last run."""
    ran = DvcLock(workspace).stages.get("gate")
    if ran is None:
        raise GateRefused("dvc.lock does not know that `gate` ran, so its reports prove nothing. Run `rlhf run`")
    for entry in ran["outs"]:
        file = workspace / entry["path"]
        if not file.is_file() or manifest.md5(file) != entry["md5"]:
            raise GateRefused(f"{entry['path']} was edited after `gate` wrote it. Run `rlhf run`, then promote")
    for path, digest in decision.inputs.items():
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


def is_kept(directory: Path) -> bool:
    """Whether a directory of kept decisions holds the decision that it is named after."""
    file = directory / Path(DECISION).name
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == directory.name


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
