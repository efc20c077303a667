"""Several promoters, and one that is killed: one champion, and what the mirror brings to agreement."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from rlhf import durable
from rlhf.errors import Busy, GateRefused
from rlhf.gate.ledger import Ledger
from rlhf.tracking import champions
from rlhf.tracking.mirror import mirror
from rlhf.tracking.promotion import promote, steps
from rlhf.tracking.sender import sync
from rlhf.tracking.store import connect
from tests.tracking.promoted import assert_agrees
from tests.tracking.workspace import Workspace, add_policy, write_decision

STEPS = ["verified", "registered", "served", "written"]


@pytest.fixture
def rivals(workspace: Workspace) -> Workspace:
    """Two registered policies, either of which the gate lets through in place of a third, the champion."""
    promote(workspace.path)
    for name in ("ppo", "grpo"):
        add_policy(workspace, name)
    sync(workspace.path)
    return workspace


def take_turns(made: Workspace, turns: Sequence[str]) -> list[str]:
    """Two promotions, a step of the named one at a time; those that won, in turn. Each begins by the gate's decision
    about its policy, against the champion of that moment."""
    work, won = {name: steps(made.path) for name in turns}, []
    for position, turn in enumerate(turns):
        if turn not in turns[:position]:
            write_decision(made, winner=turn)
        try:
            next(work[turn], None)
        except (Busy, GateRefused):
            continue
        if Ledger.of(made.path).current().candidate_key == made.keys[f"align@{turn}"] and turn not in won:
            won.append(turn)
    return won


def test_two_promoters_at_once_in_a_hundred_interleavings(rivals: Workspace) -> None:
    places = range(2 * (len(STEPS) + 1))
    chosen = Random(0).sample(list(combinations(places, len(STEPS) + 1)), 100)
    book, files = Ledger.of(rivals.path), rivals.path / champions.FILES
    begin, seen, client = book.path.read_bytes(), Counter(), connect(rivals.path).client
    for first in chosen:
        book.path.write_bytes(begin)
        client.set_registered_model_alias("small-policy", "champion", "1")
        for name in ("ppo", "grpo"):
            durable.remove(files / rivals.digests[f"models/policy/{name}"])
        turns = ["ppo" if place in first else "grpo" for place in places]
        won = take_turns(rivals, turns)
        written = [
            turns[: position + 1].count(turn) == STEPS.index("written") + 1 for position, turn in enumerate(turns)
        ]
        one_after_the_other = len(set(turns[: written.index(True) + 1])) == 1
        assert len(won) == (2 if one_after_the_other else 1), turns
        assert [entry.candidate_key for entry in book.history()[1:]] == [rivals.keys[f"align@{name}"] for name in won]
        mirror(rivals.path)
        assert_agrees(rivals.path)
        seen[tuple(won)] += 1
    assert {("ppo",), ("grpo",)} < seen.keys()


def test_the_files_of_the_champion_are_here_whoever_repairs_just_before(rivals: Workspace) -> None:
    write_decision(rivals, winner="ppo")
    work, digest = steps(rivals.path), rivals.digests["models/policy/ppo"]
    while next(work) != "served":
        pass
    assert champions.whole(rivals.path, digest)
    mirror(rivals.path)
    assert not champions.whole(rivals.path, digest), "it is no champion yet"
    assert next(work) == "written"
    assert champions.whole(rivals.path, digest), "before MLflow is asked again"


KILLED = """
import os, signal, sys
from pathlib import Path
from functools import cache
from mlflow import MlflowClient
from rlhf import durable
from rlhf.tracking import served
from rlhf.tracking.promotion import steps

def die():
    os.kill(os.getpid(), signal.SIGKILL)

publish, set_alias = durable.publish, MlflowClient.set_registered_model_alias

def publish_no_champion(temporary, target):
    die() if target.parent.name == "champions" else publish(temporary, target)

def set_one_alias(*arguments):
    set_alias(*arguments)
    die()

real = served.serve_probe
ask_once = cache(lambda: real(Path(sys.argv[1], "models/policy/ppo"), **asked))

def remembered(files, prompts, **settings):
    asked.update(settings, prompts=prompts)
    return ask_once()

asked, served.serve_probe = {}, remembered
served.require_served(Path(sys.argv[1]), "ppo", Path(sys.argv[1], "models/policy/ppo"))  # all below know what it said

for workspace in sys.argv[1:]:
    point, child = Path(workspace).parent.name, os.fork()
    if child == 0:
        if point == "publishing":
            durable.publish = publish_no_champion
        if point == "mirroring":
            MlflowClient.set_registered_model_alias = set_one_alias
        for step in steps(Path(workspace)):
            if step == point:
                die()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, point
"""


def test_a_kill_at_any_step_leaves_what_the_mirror_brings_to_agreement(rivals: Workspace) -> None:
    write_decision(rivals, winner="ppo")
    points = [*STEPS, "publishing", "mirroring"]
    copies = [shutil.copytree(rivals.path, rivals.path.parent / point / "small") for point in points]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, copies)], cwd=Path(__file__).parents[2], check=True)
    for point, path in zip(points, copies, strict=True):
        after = ["align@dpo", "align@ppo"] if point in ("written", "mirroring") else ["align@dpo"]
        assert [entry.candidate_key for entry in Ledger.of(path).history()] == [rivals.keys[name] for name in after]
        mirror(path)
        assert_agrees(path)
        assert promote(path).changed == (len(after) == 1)
        assert len(Ledger.of(path).history()) == 2, point
        assert_agrees(path)
