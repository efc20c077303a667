"""The gate's decision as it stands in a workspace: read, known by its bytes, and seen not to have been edited since."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from rlhf import durable, manifest
from rlhf.errors import DataError, GateRefused
from rlhf.tracking.outputs import DvcLock

DECISION = "reports/gate/decision.json"
PAGES = ("reports/gate.html", "reports/report.html")  # the same for a reader
KEPT = ".rlhf/decisions"  # a directory for each decision, by its digest
PARAMS = "params.yaml"


@dataclass(frozen=True)
class Standing:
    """What reports/gate/decision.json says to who promotes."""

    digest: str  # sha256 of the file
    raw: Mapping[str, Any]

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

    def refusal(self) -> str:
        """Why nothing is promoted by a decision that is not PROMOTE: its sentence, and the checks in the way."""
        failed = [
            f"{name}: {check['name']} ({check['reason']})"
            for name, entry in self.raw["candidates"].items()
            for check in entry["checks"]
            if check.get("blocking", True) and not check["passed"]
        ]
        reasons = [self.sentence, *(["Not passed: " + "; ".join(failed)] if failed else [])]
        return " ".join([f"The gate says {self.verdict}, so nothing is promoted.", *reasons])


def standing(workspace: Path) -> Standing | None:
    """The decision of a workspace; None when no gate has decided. Raises DataError for a file that is damaged."""
    path = workspace / DECISION
    try:
        content = path.read_bytes()
        raw = json.loads(content)
        found = Standing(hashlib.sha256(content).hexdigest(), raw)
        if not (found.verdict and found.sentence and isinstance(raw["candidates"], dict)) or "winner" not in raw:
            raise KeyError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a decision of the gate. Delete it and run again: `rlhf run`") from None
    return found


def require_untouched(workspace: Path, winner: str) -> None:
    """Raises GateRefused when the decision, what it rests on, or the gate's limits are not those of the last run."""
    lock = DvcLock(workspace)
    for name in ("gate", f"evaluate@{winner}"):
        if name not in lock.stages:
            raise GateRefused(f"dvc.lock does not know that `{name}` ran, so its reports prove nothing. Run `rlhf run`")
        for entry in lock.stages[name]["outs"]:
            if not _as_committed(workspace / entry["path"], entry["md5"]):
                raise GateRefused(f"{entry['path']} was edited after `{name}` wrote it. Run `rlhf run`, then promote")
    ran_with = lock.stages["gate"].get("params", {}).get(PARAMS, {})
    now = yaml.safe_load((workspace / PARAMS).read_text(encoding="utf-8")) if ran_with else {}
    changed = [key for key, value in ran_with.items() if _look_up(now, key) != value]
    if changed:
        raise GateRefused(f"{PARAMS} is no longer what the gate decided by: {', '.join(changed)}. Run `rlhf run`")


def test_set(workspace: Path) -> str:
    """Digest of the prompts that the evaluations were made on; "" where they do not say."""
    for path in sorted(workspace.glob("reports/evaluate/*/metrics.json")):
        if digest := json.loads(path.read_text(encoding="utf-8")).get("prompts_digest"):
            return str(digest)
    return ""


def keep(workspace: Path, decision: Standing) -> None:
    """Keep a copy of the decision, and of its pages, under its digest: what the ledger and approvals speak of."""
    target = workspace / KEPT / decision.digest
    if not target.is_dir():
        temporary = durable.partial(target)
        durable.remove(temporary)
        temporary.mkdir(parents=True)
        for name in (DECISION, *PAGES):
            if (workspace / name).is_file():
                shutil.copy(workspace / name, temporary)
        durable.publish(temporary, target)


def _as_committed(path: Path, md5: str) -> bool:
    """Whether a file has the bytes that DVC committed, or a directory those of its manifest."""
    try:
        if path.is_dir():
            return bool(manifest.digest(path))
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5
    except (DataError, FileNotFoundError):
        return False


def _look_up(tree: Any, key: str) -> Any:
    return reduce(lambda value, part: value.get(part) if isinstance(value, dict) else None, key.split("."), tree)
