"""What a promotion is made from, and what it must leave: ledger, aliases and files that say the same."""

from pathlib import Path

from rlhf.gate.ledger import Ledger
from rlhf.tracking import champions
from rlhf.tracking.store import connect
from tests.tracking.workspace import Workspace, make_workspace, write_decision

WEIGHTS = "model.safetensors"


def aliases(workspace: Path) -> dict[str, str]:
    found = connect(workspace).client.get_registered_model("small-policy").aliases
    return {alias: str(version) for alias, version in found.items()}


def next_policy(path: Path, beta: float) -> Workspace:
    made = make_workspace(path, beta=beta, run=f"run-{beta}")
    write_decision(made)
    return made


def edit(path: Path) -> None:
    """Change one byte of a file: of JSON the first letter of the last string."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b'": "') + 4 if path.suffix == ".json" else -1] ^= 1
    path.write_bytes(content)


def assert_agrees(workspace: Path) -> None:
    """Ledger, aliases and files say the same."""
    book = Ledger.of(workspace)
    history, current = book.history(), book.current()
    assert [entry.generation for entry in history] == list(range(1, len(history) + 1))
    entries = {"champion": current, "previous": book.previous()}
    shown = {alias: version for alias, version in aliases(workspace).items() if alias != "candidate"}
    assert shown == {alias: entry.version.rpartition("/")[2] for alias, entry in entries.items() if entry}
    kept = {path.name for path in (workspace / champions.FILES).glob("[!.]*")}
    assert kept == {entry.policy for entry in entries.values() if entry}
    assert all(champions.whole(workspace, policy) for policy in kept)


def assert_unchanged(workspace: Path) -> None:
    """Nothing has been promoted."""
    assert Ledger.of(workspace).history() == []
    assert not list((workspace / champions.FILES).glob("[!.]*"))
    assert "champion" not in aliases(workspace)
