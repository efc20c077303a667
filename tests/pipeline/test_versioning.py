"""DVC: what is stale, a remote that a second clone restores from, and damage in the cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest
from dvc.lock import make_lock

from rlhf.errors import Busy, ConfigError
from rlhf.manifest import digest
from rlhf.pipeline import versioning
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.receipt import git_state
from rlhf.pipeline.scrub import scrub
from rlhf.tracking.outputs import DvcLock
from tests.conftest import ROOT
from tests.pipeline.test_supervisor import bring, edit

pytestmark = pytest.mark.integration


def bring_all(workspace: Path) -> dict[str, str]:
    return {spec.name: bring(workspace, spec.name).state for spec in load_graph(workspace)}


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


def dvc(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=workspace, capture_output=True, text=True)


def test_what_no_stage_makes_any_more_goes_where_another_stage_reads(finished: Path) -> None:
    """Or a clone, which gets what stages make, could never have the same dep."""
    (finished / "models/.gitignore").write_text("/small")
    (finished / "models/notes.md").write_text("by a person")
    assert versioning.remove_unmade(finished, load_graph(finished)) == []
    edit(finished / "params.yaml", "[small, large]", "[small]")
    assert versioning.remove_unmade(finished, load_graph(finished)) == ["models/large"]
    assert versioning.remove_unmade(finished, load_graph(finished)) == []
    assert sorted(path.name for path in (finished / "models").iterdir()) == [".gitignore", "notes.md", "small"]
    assert (finished / "reports/model/large.csv").exists(), "nobody reads the directory"


def test_what_a_stage_reads_or_makes_stays(finished: Path) -> None:
    """Even where an earlier dvc.yaml had it, or what it lies in, as an output of another stage."""
    edit(
        finished / "dvc.lock",
        "stages:\n",
        "stages:\n  old:\n    cmd: x\n    outs:\n"
        + "".join(
            f"    - path: {path}\n" for path in ("data", "models/old.json", "models/read.csv", "models/small/weights")
        ),
    )
    edit(finished / "dvc.yaml", "deps: [models]", "deps: [., models, models/read.csv]")
    for name in ("models/old.json", "models/read.csv", "models/small/weights", "own.txt"):
        (finished / name).write_text("kept")
    assert versioning.remove_unmade(finished, load_graph(finished)) == ["models/old.json"]
    assert (finished / "data/rows").exists()
    assert (finished / "own.txt").exists()


def test_a_new_workspace_is_ready_and_making_it_again_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "new"
    versioning.init_workspace(place)
    before = {file: (place / file).read_text() for file in (".dvc/config", ".gitignore", ".dvcignore")}
    assert "analytics = false" in before[".dvc/config"]
    assert "reflink,hardlink,symlink,copy" in before[".dvc/config"]
    assert "/.work" in before[".gitignore"].splitlines()
    versioning.init_workspace(place)
    assert {file: (place / file).read_text() for file in before} == before


def test_what_is_stale_follows_params_inputs_and_outputs(workspace: Path, finished: Path) -> None:
    assert versioning.stale_stages(workspace) == {"rows", "model@small", "model@large", "gate"}
    assert versioning.stale_stages(finished) == set()
    edit(finished / "params.yaml", "repeats: 2", "repeats: 3")
    assert versioning.stale_stages(finished) == {"model@large"}
    edit(finished / "params.yaml", "repeats: 3", "repeats: 2 # as it was")
    assert versioning.stale_stages(finished) == set()
    shutil.rmtree(finished / "models/small")
    assert versioning.stale_stages(finished) == {"model@small", "gate"}


def test_what_a_run_writes_itself_is_no_change_of_the_code(finished: Path) -> None:
    assert git_state(finished) is None
    git(finished, "add", "-A")
    git(finished, "commit", "-q", "-m", "first")
    for name in ("dvc.lock", "code.json"):
        (finished / name).write_text("{}\n")
    assert not git_state(finished)["dirty"]
    (finished / "notes.txt").write_text("What is no program makes nothing.\n")
    assert not git_state(finished)["dirty"]
    (finished / "others.py").write_text("pass\n")
    assert git_state(finished)["dirty"], "a program that nobody has committed"
    git(finished, "add", "-A")
    git(finished, "commit", "-q", "-m", "second")
    assert not git_state(finished)["dirty"]
    (finished / "rows.py").write_text("pass\n")
    assert git_state(finished)["dirty"]
    assert git_state(finished / "models")["dirty"], "of the whole repository, wherever in it the workspace is"


def test_a_graph_in_a_directory_of_the_workspace_is_another(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "tests/pipeline/toy", finished / "examples/toy")
    for place in (finished, finished.parent):
        monkeypatch.chdir(place)
        assert versioning.changes(finished) == {}


def test_a_second_clone_restores_from_the_remote_instead_of_running(finished: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "-C", str(finished), "check-ignore", "-q", ".rlhf"], check=True)
    dvc(finished, "remote", "add", "--default", "store", str(tmp_path / "store")).check_returncode()
    git(finished, "add", "-A")
    git(finished, "commit", "-q", "-m", "first")
    dvc(finished, "push", "--run-cache").check_returncode()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(finished), str(clone)], check=True)
    for program in clone.glob("*.py"):
        program.write_text("raise SystemExit('this must not run')\n")
    dvc(clone, "pull", "--run-cache").check_returncode()
    assert digest(clone / "models/large") == digest(finished / "models/large")
    shutil.rmtree(clone / "models")
    assert bring_all(clone) == {
        "rows": "cached",
        "model@small": "restored",
        "model@large": "restored",
        "gate": "cached",
    }


def test_a_damaged_cache_is_found_and_the_stage_made_anew(finished: Path) -> None:
    whole = digest(finished / "models/large")
    rows = (finished / "models/large/model.txt").read_bytes()
    (cached,) = (f for f in (finished / ".dvc/cache/files").rglob("*") if f.is_file() and f.read_bytes() == rows)
    shutil.rmtree(finished / "models/large")
    cached.chmod(0o644)
    cached.write_bytes(rows.replace(b"one", b"onf"))
    cached.chmod(0o444)
    assert bring(finished, "model@large").state == "restored"  # DVC does not see it
    damage = versioning.drop_damaged(finished, load_graph(finished).stages["model@large"])
    assert damage
    assert "models/large/model.txt" in damage
    assert bring(finished, "model@large").state == "ran"
    assert digest(finished / "models/large") == whole
    assert versioning.drop_damaged(finished, load_graph(finished).stages["model@large"]) is None


def test_dvc_yaml_that_dvc_refuses_is_a_configuration_error(workspace: Path) -> None:
    edit(workspace / "dvc.yaml", "cmd: python gate.py", "command: python gate.py")
    with pytest.raises(ConfigError, match=r"dvc\.yaml"):
        versioning.stale_stages(workspace)


def test_a_key_that_dvc_does_not_know_is_named(workspace: Path) -> None:
    edit(workspace / "dvc.yaml", "cmd: python gate.py", "cmd: python gate.py\n    owner: me")
    with pytest.raises(ConfigError, match=r"/dvc\.yaml: `stages\.gate\.owner`: extra keys not allowed$"):
        versioning.stale_stages(workspace)


def test_a_dvcignore_that_is_not_utf_8_is_named(workspace: Path) -> None:
    (workspace / ".dvcignore").write_bytes("d\u00e9part".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"/\.dvcignore, or one below it, is not UTF-8"):
        versioning.stale_stages(workspace)


def test_a_directory_without_dvc_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rlhf init"):
        versioning.stale_stages(tmp_path)


def test_a_repository_in_use_is_busy(workspace: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(workspace)) as repo, repo.lock, pytest.raises(Busy, match="in use"):
        versioning.stale_stages(workspace)


def test_locks_of_dead_processes_are_removed_and_those_of_living_ones_kept(workspace: Path) -> None:
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped: DVC takes it for alive
    file = workspace / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)
    by = {name: {"pid": pid, "cmd": "dvc repro"} for name, pid in (("dead", dead.pid), ("alive", os.getpid()))}
    locks = {"write": {"a": by["dead"], "b": by["alive"]}, "read": {"c": [by["dead"]], "d": [by["dead"], by["alive"]]}}
    file.write_text(json.dumps(locks))
    versioning.clear_dead_locks(workspace)
    assert json.loads(file.read_text()) == {"write": {"b": by["alive"]}, "read": {"d": [by["alive"]]}}
    dead.wait()


def test_locks_that_dvc_changes_just_now_are_left_to_it(workspace: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    file = workspace / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"write": {"a": {"pid": dead.pid, "cmd": "dvc repro"}}}))
    before = file.read_bytes()
    with make_lock(f"{file}.lock"):
        versioning.clear_dead_locks(workspace)
    assert file.read_bytes() == before
    versioning.clear_dead_locks(workspace)
    assert json.loads(file.read_text()) == {"read": {}, "write": {}}
    written = file.stat().st_ino
    versioning.clear_dead_locks(workspace)
    assert file.stat().st_ino == written, "nothing is dead, so nothing is written"


def test_nothing_is_scrubbed_while_dvc_makes_it(workspace: Path) -> None:
    file = workspace / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"write": {"report.txt": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    with pytest.raises(Busy, match=rf"report\.txt is being made: process {os.getpid()}, `dvc repro`"):
        next(scrub(workspace, mend=True, progress=lambda *_: None))


def test_what_dvc_began_to_make_during_a_scrub_is_no_damage(finished: Path) -> None:
    """Its files are not yet as they were recorded, and stay."""
    report, file = finished / "report.txt", finished / ".dvc/tmp/rwlock"

    def begin(kind: str, done: int, of: int) -> None:
        if kind == "outputs" and not done:
            file.write_text(json.dumps({"write": {"report.txt": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
            report.unlink()
            report.write_text("half of ano")

    with pytest.raises(Busy, match=r"report\.txt is being made"):
        list(scrub(finished, mend=True, progress=begin))
    assert report.read_text() == "half of ano"


def test_a_dvc_lock_that_is_written_just_now_is_read_when_it_is_whole(finished: Path) -> None:
    file = finished / "dvc.lock"
    text = file.read_text()
    whole = DvcLock(finished).stages
    for torn in (text[: text.index("rows:")], text[:-30]):
        file.write_text(torn)
        writing = Timer(0.3, file.write_text, (text,))
        writing.start()
        assert DvcLock(finished).stages == whole
        writing.join()


def test_a_lock_is_waited_for_while_its_holder_may_be_dying(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workspace / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)

    def hold(pid: int) -> None:
        file.write_text(json.dumps({"write": {str(workspace / "report.txt"): {"pid": pid, "cmd": "dvc repro"}}}))

    holder = subprocess.Popen(["sleep", "1"])
    hold(holder.pid)
    assert "gate" in versioning.changes(workspace)
    assert holder.poll() == 0
    hold(os.getpid())
    monkeypatch.setattr(versioning, "DYING", 0.0)
    with pytest.raises(Busy, match=str(os.getpid())):
        versioning.changes(workspace)
