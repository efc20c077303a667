"""Approvals: a person who did not train the policy answers for one decision of the gate, for some days.

A signed approval is two files in .rlhf/approvals/<digest of the decision>/: what is said, as canonical JSON, and its
signature by `ssh-keygen -Y sign`. It is verified against a file of OpenSSH's allowed signers, which says whose key is
whose (ssh-keygen(1), "ALLOWED SIGNERS").
"""

import json
import re
import subprocess
import time
import unicodedata
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf import durable
from rlhf.errors import ConfigError, GateRefused

APPROVALS = ".rlhf/approvals"
NAMESPACE = "rlhf-promotion"  # a signature made for anything else does not count
DAY = 24 * 3600.0  # seconds
SKEW = 60.0  # seconds by which the clock of whoever signs may be ahead
_ADDRESS = re.compile(r"<([^<>]*)>\s*$")  # of `Ada <ada@b.c>`
_NAME = re.compile(r"[\w+@-][\w.+@-]*")  # what may name a file and a signer


@dataclass(frozen=True)
class Approval:
    """What somebody says yes to."""

    decision: str  # sha256 of decision.json
    policy: str  # digest of the winner's files
    generation: int  # of the champion that it would replace
    approver: str
    time: float  # seconds since 1970
    comment: str = ""

    def statement(self) -> bytes:
        """Canonical JSON: what is signed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def check(approval: Approval, wanted: Approval, trainers: Collection[str], days: float) -> None:
    """Raises GateRefused unless the approval speaks of the `wanted` decision, holds still, and is not the trainer's."""
    who = approval.approver
    bound = ("decision", "policy", "generation")
    if not person(who):
        raise GateRefused("nobody answers for it: it names no approver")
    if [getattr(approval, name) for name in bound] != [getattr(wanted, name) for name in bound]:
        raise GateRefused(f"what {who} approved is not this decision ({wanted.decision[:12]})")
    age = time.time() - approval.time
    if age < -SKEW:
        raise GateRefused(f"{who} approved {-age:.0f} s in the future. Compare the clocks of the two machines")
    if age > days * DAY:
        raise GateRefused(f"the approval of {who} does not hold now: it holds for {days:g} days from when it was given")
    if not trainers:
        raise GateRefused(
            "nobody knows who trained the policy, so nobody can be told apart from them: set `git config user.email` "
            "where it is trained"
        )
    if person(who) in {person(trainer) for trainer in trainers}:
        raise GateRefused(f"{who} trained the policy; another person has to approve it")


def person(name: str) -> str:
    """Whom a name means: the address of `Ada <ada@b.c>`, whatever its case, its Unicode form, and the space around."""
    named = _ADDRESS.search(name)
    return unicodedata.normalize("NFKC", (named[1] if named else name).strip().casefold())


def sign(workspace: Path, approval: Approval, key: Path, approvers: Path) -> Path:
    """Write the approval with its signature by `key`; return where.

    Raises ConfigError for a key that does not sign, and without a file of approvers; GateRefused for a signature that
    does not count by it. Then what was approved before stays.
    """
    if not _NAME.fullmatch(approval.approver):
        raise ConfigError(f"`{approval.approver}` cannot sign: an approver is named as in the allowed signers, a@b.c")
    target = workspace / APPROVALS / approval.decision / f"{approval.approver}.json"
    signed = _ssh_keygen("sign", "-f", str(key), statement=approval.statement())
    if signed.returncode:
        raise ConfigError(f"{key} does not sign: {_last_line(signed.stderr)}. Name a private key: --key PATH")
    with TemporaryDirectory() as place:
        _write(Path(place, target.name), approval, signed.stdout)
        verified(Path(place, target.name), approvers)
    _write(target, approval, signed.stdout)
    return target


def _write(target: Path, approval: Approval, signature: bytes) -> None:
    durable.write_text(target.with_suffix(".json.sig"), signature.decode())
    durable.write_text(target, approval.statement().decode())


def signed_approval(
    workspace: Path, wanted: Approval, approvers: Path, trainers: Collection[str], days: float
) -> Approval:
    """The first signed approval of the `wanted` decision that holds. Raises GateRefused, which says what is wrong with
    each; ConfigError without a file of approvers."""
    _require(approvers)
    faults = []
    for path in sorted((workspace / APPROVALS / wanted.decision).glob("*.json")):
        try:
            approval = verified(path, approvers)
            check(approval, wanted, trainers, days)
            return approval
        except GateRefused as refusal:
            faults.append(str(refusal))
    raise GateRefused(
        f"Decision {wanted.decision[:12]} lacks the approval of another person than the trainer"
        + "".join(f"; {fault}" for fault in faults)
        + ". Such a person runs `rlhf approve --key PATH`, then `rlhf promote`"
    )


def verified(path: Path, approvers: Path) -> Approval:
    """The approval in a file, if its signature is that of the person it names. Raises GateRefused; ConfigError without
    a file of approvers."""
    _require(approvers)
    statement = path.read_bytes()
    try:
        approval = Approval(**json.loads(statement))
    except (ValueError, TypeError):
        raise GateRefused(f"{path.name} is not an approval") from None
    signature = str(path.with_suffix(".json.sig"))
    who = ("-f", str(approvers), "-I", str(approval.approver), "-s", signature)
    if _ssh_keygen("verify", *who, statement=statement).returncode:
        raise GateRefused(f"the signature under {path.name} is not that of {approval.approver} in {approvers}")
    return approval


def _require(approvers: Path) -> None:
    if not approvers.is_file():
        raise ConfigError(f"{approvers} does not exist: `promotion.approvers` of params.yaml names the allowed signers")


def _ssh_keygen(verb: str, *arguments: str, statement: bytes) -> "subprocess.CompletedProcess[bytes]":
    command = ["ssh-keygen", "-Y", verb, "-n", NAMESPACE, *arguments]
    try:
        return subprocess.run(command, input=statement, capture_output=True)
    except FileNotFoundError:
        raise ConfigError(
            "ssh-keygen, which signs and verifies approvals, is not installed. It is in the package openssh-client"
        ) from None


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
