"""Approvals: signed by a person who may, of this decision, not by the trainer, and not for ever."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rlhf.errors import ConfigError, GateRefused
from rlhf.gate.approval import DAY, NAMESPACE, Approval, check, sign, signed_approval

TRAINER, ADA = "Trainer@here", "ada@here"


@dataclass
class Office:
    """A workspace, keys by name, and the file that says whose they are."""

    path: Path

    @property
    def approvers(self) -> Path:
        return self.path / "approvers"

    def key(self, name: str) -> Path:
        return self.path / name

    def sign(self, approval: Approval, name: str, approvers: Path | None = None) -> Path:
        return sign(self.path, approval, self.key(name), approvers or self.approvers)

    def looked_for(self) -> Approval:
        return signed_approval(self.path, wanted(), self.approvers, {TRAINER.lower()}, days=7)


def wanted(approver: str = "") -> Approval:
    return Approval("d" * 64, "p" * 64, 3, approver, time.time())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of Ada, of the trainer and of a stranger; the first two may approve."""
    directory = tmp_path_factory.mktemp("keys")
    lines = []
    for name in (ADA, TRAINER, "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)]
        subprocess.run(command, check=True)
        lines.append(f'{name} namespaces="{NAMESPACE}" {(directory / f"{name}.pub").read_text()}')
    (directory / "approvers").write_text("".join(lines[:2]))
    return directory


@pytest.fixture
def office(keys: Path, tmp_path: Path) -> Office:
    for file in keys.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / file.name).chmod(0o600)
    return Office(tmp_path)


@pytest.mark.parametrize("name", ["Ada@Here", " ada@here\n", "Ada Byron <ADA@here>", "\uff21da@here"])
def test_a_trainer_by_another_spelling_is_the_trainer(name: str) -> None:
    for approver, trainer in ((name, ADA), (ADA, name)):
        with pytest.raises(GateRefused, match="trained the policy"):
            check(wanted(approver), wanted(), {trainer}, 7)
    check(wanted("ada@there"), wanted(), {name}, 7)
    with pytest.raises(GateRefused, match="names no approver"):
        check(wanted(" "), wanted(), {name}, 7)


def test_a_signed_approval_holds(office: Office) -> None:
    with pytest.raises(GateRefused, match=r"lacks the approval of another person.*rlhf approve --key PATH"):
        office.looked_for()
    path = office.sign(replace(wanted(ADA), comment="read it: d\u00e9j\u00e0 vu"), ADA)
    assert path.relative_to(office.path) == Path(".rlhf/approvals") / ("d" * 64) / f"{ADA}.json"
    assert office.looked_for().approver == ADA
    assert office.looked_for().comment == "read it: d\u00e9j\u00e0 vu"


def edited(office: Office) -> None:
    path = office.sign(wanted(ADA), ADA)
    path.write_bytes(path.read_bytes().replace(b'"generation":3', b'"generation":4'))


def of_another_decision(office: Office) -> None:
    """A record that Ada signed of something else, put where one of this decision belongs."""
    path = office.sign(replace(wanted(ADA), decision="e" * 64), ADA)
    path.parent.rename(path.parent.parent / ("d" * 64))


def signed(approver: str, key: str, **change: object) -> Callable[[Office], object]:
    """An approval as it comes from where other approvers count."""

    def bring(office: Office) -> None:
        elsewhere = office.path / "elsewhere"
        elsewhere.write_text(f"{approver} {office.key(f'{key}.pub').read_text()}")
        office.sign(replace(wanted(approver), **change), key, elsewhere)

    return bring


def unsigned(office: Office) -> None:
    office.sign(wanted(ADA), ADA).with_suffix(".json.sig").unlink()


def for_something_else(office: Office) -> None:
    """Ada's signature of the same words, given in another namespace, as to a commit."""
    path = office.sign(wanted(ADA), ADA)
    path.with_suffix(".json.sig").unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", office.key(ADA), path], check=True)


REFUSED = {
    "a key of nobody's": (signed(ADA, "stranger"), f"is not that of {ADA}"),
    "another's key": (signed(ADA, TRAINER), f"is not that of {ADA}"),
    "no approver": (signed("stranger", "stranger"), "is not that of stranger"),
    "expired": (signed(ADA, ADA, time=time.time() - 7.1 * DAY), "does not hold now"),
    "of tomorrow": (signed(ADA, ADA, time=time.time() + DAY), "s in the future. Compare the clocks"),
    "the trainer": (signed(TRAINER, TRAINER), "trained the policy; another person"),
    "another policy": (signed(ADA, ADA, policy="q" * 64), "is not this decision"),
    "another generation": (signed(ADA, ADA, generation=4), "is not this decision"),
    "another decision": (of_another_decision, "is not this decision"),
    "edited": (edited, f"is not that of {ADA}"),
    "unsigned": (unsigned, f"is not that of {ADA}"),
    "another namespace": (for_something_else, f"is not that of {ADA}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_count(office: Office, case: str) -> None:
    approve, message = REFUSED[case]
    approve(office)
    with pytest.raises(GateRefused, match=message):
        office.looked_for()


def test_one_that_holds_is_found_beside_one_that_does_not(office: Office) -> None:
    office.sign(wanted(TRAINER), TRAINER)
    office.sign(wanted(ADA), ADA)
    assert office.looked_for().approver == ADA


def test_a_signature_that_does_not_count_is_not_kept_and_takes_nothing_away(office: Office) -> None:
    office.sign(wanted(ADA), ADA)
    with pytest.raises(GateRefused, match=f"is not that of {ADA}"):
        office.sign(wanted(ADA), "stranger")
    assert office.looked_for().approver == ADA
    with pytest.raises(GateRefused, match="is not that of stranger"):
        office.sign(wanted("stranger"), "stranger")
    assert {path.name for path in office.path.glob(".rlhf/approvals/*/*")} == {f"{ADA}.json", f"{ADA}.json.sig"}


def test_nobody_approves_where_nobody_knows_the_trainer(office: Office) -> None:
    office.sign(wanted(ADA), ADA)
    with pytest.raises(GateRefused, match="nobody knows who trained the policy"):
        signed_approval(office.path, wanted(), office.approvers, set(), days=7)


def test_what_is_signed_is_canonical() -> None:
    approval = replace(wanted(ADA), time=1.5)
    said = approval.statement()
    opening = f'{{"approver":"{ADA}","comment":"","decision":"{"d" * 64}",'
    assert said == f'{opening}"generation":3,"policy":"{"p" * 64}","time":1.5}}\n'.encode()
    assert Approval(**json.loads(said)) == approval


def test_what_cannot_sign_is_named(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nothing does not sign.*--key PATH"):
        office.sign(wanted(ADA), "nothing")
    with pytest.raises(ConfigError, match=r"`\.\./ada` cannot sign"):
        office.sign(wanted("../ada"), ADA)
    with pytest.raises(ConfigError, match=r"approvers does not exist.*promotion\.approvers"):
        signed_approval(office.path, wanted(), office.path / "no/approvers", {TRAINER}, days=7)
    with pytest.raises(ConfigError, match=r"approvers does not exist.*promotion\.approvers"):
        office.sign(wanted(ADA), ADA, office.path / "no/approvers")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="openssh-client"):
        office.sign(wanted(ADA), ADA)
    assert not (office.path / ".rlhf").exists()
