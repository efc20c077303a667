"""champion.json: what is compared with next follows the ledger, and stands still where there is nothing to compare."""

import json
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.gate.ledger import Champion, Ledger
from rlhf.manifest import sha256, write_manifest
from rlhf.pipeline.champion import CHAMPION, Pinned, champion_files, pin, pinned, refresh
from rlhf.tracking.champions import FILES
from tests import decisions


def decide(workspace: Path, sentence: str) -> str:
    """Have the gate decide, and count it; the digest of the decision."""
    digest = sha256(decisions.write(workspace, decisions.made_of("PROMOTE", sentence, {"dpo": "aa"})))
    Ledger.of(workspace).record(digest, "prompts", [sentence.split()[-1]], "PROMOTE")
    return digest


def promoted(workspace: Path, policy: str, decision: str) -> Champion:
    book = Ledger.of(workspace)
    return book.promote(policy, policy, "policy/1", decision, len(book.history()))


def test_it_is_written_where_it_is_absent(tmp_path: Path) -> None:
    assert refresh(tmp_path, set())
    written = json.loads((tmp_path / CHAMPION).read_text())
    assert (written["format"], written["champion"]) == (2, {"generation": 0, "policy": "", "judged": []})
    assert not refresh(tmp_path, {"evaluate@dpo"})
    assert not (tmp_path / ".rlhf").exists()


def test_a_clone_counts_the_policies_that_were_judged_where_it_comes_from(tmp_path: Path) -> None:
    before = [{"test_set": "prompts", "looks": ["near"]}, {"test_set": "prompts", "looks": ["far"]}]
    pin(tmp_path, Pinned(judged=before))
    Ledger.of(tmp_path).record("digest", "prompts", ["here", "near"], "REJECT")
    refresh(tmp_path, {"gate"})
    assert pinned(tmp_path).judged == [*before, {"test_set": "prompts", "looks": ["here"]}]


def test_after_a_promotion_there_is_nothing_to_do_until_something_changes(tmp_path: Path) -> None:
    refresh(tmp_path, {"gate"})
    promoted(tmp_path, "aa", decide(tmp_path, "dpo is good."))
    assert not refresh(tmp_path, set())
    assert pinned(tmp_path) == Pinned()
    assert refresh(tmp_path, {"align@dpo"})
    assert pinned(tmp_path) == Pinned(1, "aa", [{"test_set": "prompts", "looks": ["good."]}])


def test_a_decision_alone_moves_nothing(tmp_path: Path) -> None:
    refresh(tmp_path, {"gate"})
    decide(tmp_path, "dpo is good.")
    assert not refresh(tmp_path, set()), "that it looked at the test set is counted in by the next run that runs"


def test_after_a_rollback_it_is_compared_anew_and_then_stands_still(tmp_path: Path) -> None:
    refresh(tmp_path, {"gate"})
    promoted(tmp_path, "aa", decide(tmp_path, "dpo is good."))
    refresh(tmp_path, {"gate"})
    promoted(tmp_path, "bb", decide(tmp_path, "dpo is better."))
    assert not refresh(tmp_path, set())
    Ledger.of(tmp_path).rollback(2)
    assert refresh(tmp_path, set())
    assert pinned(tmp_path) == Pinned(
        3, "aa", [{"test_set": "prompts", "looks": [one]} for one in ("good.", "better.")]
    )
    decide(tmp_path, "dpo is better, once more.")  # the gate ran again, against generation 3
    assert not refresh(tmp_path, set()), "the count alone would make the gate run without end"


def test_a_champion_that_was_promoted_elsewhere_stays_pinned(tmp_path: Path) -> None:
    pin(tmp_path, Pinned(7, "aa"))
    assert not refresh(tmp_path, {"gate"}), "the ledger of this clone knows nothing of it"
    assert pinned(tmp_path) == Pinned(7, "aa")


def test_a_damaged_pin_is_named(tmp_path: Path) -> None:
    (tmp_path / CHAMPION).write_text('{"champion": {"generation": 1}')
    with pytest.raises(DataError, match=r"champion\.json is damaged. Delete it and run again"):
        refresh(tmp_path, {"gate"})


def test_the_files_of_a_champion_are_verified(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`rlhf sync` fetches them"):
        champion_files(tmp_path, "aa")
    made = tmp_path / FILES / "made"
    made.mkdir(parents=True)
    (made / "weights").write_text("1")
    policy = write_manifest(made)
    made.rename(made.parent / policy)
    assert champion_files(tmp_path, policy) == made.parent / policy
    (made.parent / policy / "weights").write_text("2")
    with pytest.raises(DataError, match="damaged"):
        champion_files(tmp_path, policy)
