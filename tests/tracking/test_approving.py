"""Where a person has to approve, another one than the trainer does, about the decision that stands."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import promoting
from rlhf.cli import app
from rlhf.errors import Exit, GateRefused
from rlhf.gate.ledger import Ledger
from rlhf.gate.records import DECISION
from rlhf.manifest import digest
from rlhf.tracking.promotion import approve, promote
from tests.tracking.promoted import assert_unchanged
from tests.tracking.workspace import TRAINER, Workspace, write_params


@pytest.fixture
def guarded(synced: Workspace, tmp_path: Path) -> Path:
    """A workspace where a person has to approve, of whom two may sign: Ada and the trainer; their keys lie there."""
    path = shutil.copytree(synced.path, tmp_path / "small")
    write_params(path, approval="signed", approvers="approvers")
    (path / "dvc.yaml").touch()
    for name in ("ada@here", TRAINER):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path / name], check=True)
    keys = [f"{name} {(path / f'{name}.pub').read_text()}" for name in ("ada@here", TRAINER)]
    (path / "approvers").write_text("".join(keys))
    return path


def signs(path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["approve", "-C", str(path), "--key", str(path / name), "--approver", name])
    assert done.exit_code == 0, done.output


def test_where_approval_is_required_a_signed_one_promotes(guarded: Path) -> None:
    with pytest.raises(GateRefused, match=r"lacks the approval of another person.*`rlhf approve --key PATH`"):
        promote(guarded, approver="ada@here")
    for name, key in ((TRAINER, TRAINER), ("ada@here", TRAINER)):  # trained it; signs with another's key
        with pytest.raises(GateRefused, match=r"trained the policy|is not that of ada@here"):
            approve(guarded, name, guarded / key)
    with pytest.raises(GateRefused, match="lacks the approval"):
        promote(guarded)
    assert_unchanged(guarded)
    signs(guarded, "ada@here")
    assert promote(guarded).champion.approver == "ada@here"


def test_the_answer_in_a_form_is_about_the_decision_that_was_shown(
    guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = digest(guarded / DECISION)
    signed = promoting.main([str(guarded), "--approver=ada@here", f"--approved={shown}"])
    assert (signed, "rlhf approve" in capsys.readouterr().out) == (Exit.GATE_REFUSED, True), "signatures count alone"
    write_params(guarded, approval="form")
    cases = {"ada@here": ("0" * 64, "is not this decision"), TRAINER: (shown, "trained"), "": (shown, "no approver")}
    for name, (about, message) in cases.items():
        assert promoting.main([str(guarded), f"--approver={name}", f"--approved={about}"]) == Exit.GATE_REFUSED
        assert message in capsys.readouterr().out
    assert_unchanged(guarded)
    with pytest.raises(GateRefused, match=r"the form of the deployment `promote`"):
        promote(guarded)
    assert promoting.main([str(guarded), "--approver=ada@here", f"--approved={shown}"]) == Exit.DONE
    current = Ledger.of(guarded).current()
    assert current is not None
    assert current.approver == "ada@here"
