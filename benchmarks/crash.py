"""Let one piece of work die at every place that it comes to, start it again, and say what was not as it should be.

It runs once as it should, which says what places it comes to (rlhf/failpoints.py) and what it leaves. Then, for each
place and each fault, it suffers the fault there, in the workspace as it was before, and is started again with nothing
done by hand in between. The place is recovered when

* the fault ended the work as documented: by the kernel, or with its exit code and one sentence;
* then each thing that it makes was old, new or not there, never a mix, and everything else as before;
* the second run ended well, left every byte as the run without a fault did, and nothing half-written beside it;
* no more optimizer steps were taken twice than lie between two checkpoints.

Processes are forks of this one, which has loaded the libraries. It must compute nothing itself: threads do not survive
a fork, and those that wait for them hang.
"""

import hashlib
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.power import Power
from rlhf.durable import PARTIAL
from rlhf.errors import Exit
from rlhf.failpoints import FAILPOINT, FAULTS
from rlhf.pipeline.stage.work import KEPT

SECONDS = 300  # after which the kernel ends a process that hangs
LOST = "lost"  # a fault: death, and the machine loses power (benchmarks/power.py)
WRITTEN = "\t"  # stands in a place where a file is in hand
PROCESS = re.compile(rf"{re.escape(PARTIAL)}(\d+-)+")  # who is writing, where several may
STEP, CHECKPOINT = "stepped", re.compile(r"published step-\d+")  # places
APART = (".work", ".rlhf", "mlflow.db", "mlartifacts")  # of a workspace: compared by what it means, or not at all


@dataclass(frozen=True)
class Work:
    """Something that may die anywhere and is started again."""

    name: str
    run: Callable[[], object]  # in a process of its own, in the workspace; what it returns or exits with is its code
    owns: Sequence[str] = ()  # the files and directories that it makes, each at once
    meaning: Callable[[Path], Mapping[str, str]] = lambda workspace: {}  # what lies APART says, by name


@dataclass
class Survey:
    """What came of it."""

    name: str
    places: int
    trials: int = 0  # a place and a fault
    twice: int = 0  # two deaths, the second while it recovers from the first
    wrong: dict[str, list[str]] = field(default_factory=dict)  # trial: what was not as it should be


class Trials:
    """The trials of one work in `root`/workspace, where it has been done when this is made."""

    def __init__(self, work: Work, root: Path) -> None:
        """Raises RuntimeError for a work that fails without a fault."""
        self.work = work
        self.here, self._before, self._after = root / "workspace", root / "before", root / "after"
        self._hits, self._said = root / "hits", root / "said"
        self._power = Power(self.here, root / "on-disk")
        copy(self.here, self._before)
        self._power.on()
        self._hits.unlink(missing_ok=True)
        code = self._run()
        if code != Exit.DONE:
            raise RuntimeError(f"{work.name} ends with {code} where nothing is wrong: {self._said.read_text()}")
        copy(self.here, self._after)
        self.places = self._reached()
        self._old, self._new = files(self._before), files(self.here)
        self._meaning = work.meaning(self.here)

    def survey(self, every: int = 1, in_turn: bool = False, deaths: int = 3) -> Survey:
        """Each fault at one place in `every`; or `in_turn` death, and one of the other faults.

        At as many places as `deaths` it dies again, at as many places of the way back.
        """
        found = Survey(self.work.name, len(self.places))
        for number in range(1, len(self.places) + 1, every):
            for fault in self._faults(number, in_turn):
                found.trials += 1
                self._note(found, self.suffer(number, fault), number, fault)
        for number in spread(1, len(self.places), deaths):
            self.suffer(number, "kill")
            for second in spread(number + 1, len(self._reached()), deaths):
                found.twice += 1
                self._note(found, self.suffer(number, "kill", second), number, "kill", f"and {second} kill")
        copy(self._after, self.here)
        return found

    def suffer(self, number: int, fault: str, second: int = 0) -> list[str]:
        """Die at a place, and once more at the `second` unless it is 0; go on. Returns what was not as it should be."""
        copy(self._before, self.here)
        self._power.on()
        self._hits.unlink()
        wrong = [*self._ended(fault, self._run(number, fault)), *self._harmed()]
        if self._reached()[:number] != self.places[:number]:
            wrong.append("it came to other places than before")
        if second:
            wrong += [*self._ended("kill", self._run(second, "kill")), *self._harmed()]
        code = self._run()
        if code != Exit.DONE:
            wrong.append(f"started again, it ends with {code}: {self._said.read_text().strip()[-300:]}")
        wrong += [f"started again, it leaves another {path}" for path in differing(files(self.here), self._new)]
        wrong += [
            f"started again, it leaves another {name}"
            for name in differing(self.work.meaning(self.here), self._meaning)
        ]
        again = self._reached().count(STEP) - self.places.count(STEP)
        if again > between_checkpoints(self.places) * (2 if second else 1):
            wrong.append(f"{again} optimizer steps were taken twice")
        return wrong

    def _faults(self, number: int, in_turn: bool) -> Sequence[str]:
        """What may happen at a place: where nothing is written, death alone, with power or without."""
        death, *others = (*FAULTS, LOST)
        if WRITTEN not in self.places[number - 1]:
            return [(death, LOST)[number % 2]] if in_turn else [death, LOST]
        return [death, others[number % len(others)]] if in_turn else [death, *others]

    def _run(self, number: int = 0, fault: str = "") -> int:
        """Run, and suffer a fault at a place, if any."""

        def run() -> object:
            self._power.watch()
            return self.work.run()

        self._hits.touch()
        plan = f":{number}:{'kill' if fault == LOST else fault}" if fault else ""
        code = forked(run, self.here, self._said, f"{self._hits}{plan}")
        if fault == LOST:
            self._power.fail()
        return code

    def _ended(self, fault: str, code: int) -> Iterator[str]:
        said = self._said.read_text()
        wanted = {"full": Exit.DISK_FULL, "error": Exit.FAILED}.get(fault, -signal.SIGKILL)
        if code != wanted:
            yield f"it ended with {code}, not {int(wanted)}: {said.strip()[-300:]}"
        if fault == "full" and not ("pace is left for" in said and "Traceback" not in said):
            yield f"it did not say that the disk is full: {said.strip()[-300:]}"

    def _harmed(self) -> Iterator[str]:
        """What a fault left that is neither old nor new."""
        now = {path: digest for path, digest in files(self.here).items() if not half_written(path)}
        old, new = dict(self._old), dict(self._new)
        for owned in self.work.owns:
            part, *versions = (take(found, owned) for found in (now, old, new))
            if part and part not in versions:
                yield f"after the fault {owned} was neither old nor new"
        yield from (f"after the fault {path} was another" for path in differing(now, old))

    def _reached(self) -> list[str]:
        return PROCESS.sub(PARTIAL, self._hits.read_text()).splitlines()

    def _note(self, found: Survey, wrong: list[str], number: int, *words: str) -> None:
        if wrong:
            place = self.places[number - 1].replace(WRITTEN, " ")
            found.wrong[f"{number} {' '.join(words)} ({place})"] = wrong


def forked(run: Callable[[], object], directory: Path, said: Path, plan: str) -> int:
    """Run in a process of its own and wait for it; its exit code, or the negative number of the signal that ended it.

    What it says goes to the file `said`; `plan` is what RLHF_FAILPOINT says to it.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code: object = Exit.FAILED
    try:
        signal.alarm(SECONDS)
        sys.stdout = sys.stderr = file = open(said, "w", buffering=1)  # noqa: SIM115 - until the process ends
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os.chdir(directory)
        os.environ[FAILPOINT] = plan
        code = run()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def files(workspace: Path) -> dict[str, str]:
    """The SHA-256 of every file that is not APART, by path; and what is half-written, wherever it is.

    But what several stages keep for each other may be half-written for a day (rlhf/models/cached.py).
    """
    paths = [path for path in workspace.rglob("*") if path.is_file()]
    named = {path.relative_to(workspace).as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(named.items())
        if not name.startswith(APART) or (half_written(name) and not name.startswith(KEPT))
    }


def half_written(path: str) -> bool:
    """Whether a path is one of those under which things are written before they have their name."""
    return any(part.startswith(PARTIAL) for part in path.split("/"))


def take(found: dict[str, str], owned: str) -> dict[str, str]:
    """Remove what is, or lies in, `owned`; return it."""
    return {path: found.pop(path) for path in list(found) if path == owned or path.startswith(f"{owned}/")}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names under which two mappings do not say the same."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def between_checkpoints(places: Sequence[str]) -> int:
    """The most optimizer steps without a checkpoint."""
    most = now = 0
    for place in places:
        now = 0 if CHECKPOINT.fullmatch(place) else now + (place == STEP)
        most = max(most, now)
    return most


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` whole numbers from `first` to `last`, as far apart as can be."""
    if last < first or count < 1:
        return []
    return sorted({first + round((last - first) * part / max(count - 1, 1)) for part in range(count)})


def copy(source: Path, target: Path) -> None:
    """Make a directory what another one is."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)
