"""Scrub: read all that a workspace keeps, find what is no longer as it was written, and bring good copies back.

A disk may lose a bit long after it was written, and neither DVC (notes on its cache: rlhf/manifest.py) nor the kernel
looks. Files are hashed as they are read, whatever their size. What is damaged is moved to .rlhf/damaged, never deleted.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf import durable, manifest
from rlhf.errors import DataError, ServiceError
from rlhf.gate.ledger import LEDGER, Ledger
from rlhf.pipeline import cache, champion, versioning
from rlhf.pipeline.graph import load_graph
from rlhf.pipeline.stage.work import KEPT, REPLIES
from rlhf.pipeline.workspace import hold_workspace
from rlhf.tracking import champions, standing
from rlhf.tracking.journal import WORK, journals, read
from rlhf.tracking.outputs import DvcLock

ANEW = "`rlhf run` makes it anew"
Progress = Callable[[str, int, int], None]  # what is read, done, total


@dataclass(frozen=True)
class Damage:
    """A file, or a directory, that is not as it was written."""

    path: Path
    fault: str
    done: str = ""  # what was done about it, or is to be done
    mended: bool = False  # nothing is left to do

    def __str__(self) -> str:
        said = self.fault if str(self.path) in self.fault else f"{self.path} {self.fault}"
        return f"{said}. {self.done}".rstrip(". ")


@dataclass(frozen=True)
class Found:
    """What was found among all things of a kind."""

    kind: str
    count: int
    damaged: tuple[Damage, ...]


def scrub(workspace: Path, *, mend: bool, progress: Progress, patience: float = 0.0) -> Iterator[Found]:
    """Look at every kind of thing in turn, and mend what can be mended. Raises Busy while DVC is at work, or for
    `patience` seconds a run."""
    with hold_workspace(workspace, patience):
        versioning.require_no_writer(workspace)
        for kind in KINDS:
            paths = kind.paths(workspace)
            faults = list[Damage]()
            for done, path in enumerate(paths):
                progress(kind.name, done, len(paths))
                if fault := _fault(kind, workspace, path):
                    faults.append(Damage(path, fault))
            if faults:
                versioning.require_no_writer(workspace)  # what it makes is not yet as it was recorded
            damaged = kind.mend(workspace, faults) if mend and faults else faults
            yield Found(kind.name, len(paths), tuple(damaged))


@dataclass(frozen=True)
class _Kind:
    name: str
    paths: Callable[[Path], Sequence[Path]]
    fault: Callable[[Path, Path], str | None]
    mend: Callable[[Path, Sequence[Damage]], Iterable[Damage]]


def _fault(kind: _Kind, workspace: Path, path: Path) -> str | None:
    """What is wrong with a thing, also where the disk does not give it back."""
    try:
        return kind.fault(workspace, path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _object_fault(workspace: Path, path: Path) -> str | None:
    fault = cache.object_fault(path)
    if not fault and path.name.endswith(cache.TREE):
        missing = sum(not member.is_file() for member in cache.members(path))
        return f"names {missing} objects that are missing" if missing else None
    return fault


def _mend_objects(workspace: Path, damage: Sequence[Damage]) -> Iterator[Damage]:
    """Take damaged objects away; have them, and the members of directories, from the outputs here or the remote."""
    wanted = set[Path]()
    for one in damage:
        if cache.object_fault(one.path):
            cache.move_away(workspace, one.path)
            wanted.add(one.path)
        else:
            wanted |= {member for member in cache.members(one.path) if not member.is_file()}
    cache.recover(workspace, wanted)
    with suppress(ServiceError):  # a remote that does not answer gives nothing
        versioning.fetch(workspace, [path for path in wanted if not path.is_file()])
    for one in damage:
        whole = one.path.is_file() and not _object_fault(workspace, one.path)
        yield Damage(one.path, one.fault, "Brought back from a good copy" if whole else f"Where needed, {ANEW}", whole)


def _outputs(workspace: Path) -> list[Path]:
    made = (workspace / path for spec in load_graph(workspace) for path in spec.made)
    return [path for path in made if path.exists()]


def _output_fault(workspace: Path, path: Path) -> str | None:
    """A directory is held against its manifest, a file against what DVC recorded of it."""
    if path.is_dir():
        return _raised(lambda: manifest.verified(path))
    name = path.relative_to(workspace).as_posix()
    try:
        recorded = DvcLock(workspace).digests.get(name)
    except DataError:
        return None  # dvc.lock is named among the records
    return None if recorded in (None, manifest.md5(path)) else "is not the file that DVC recorded"


def _mend_outputs(workspace: Path, damage: Sequence[Damage]) -> Iterator[Damage]:
    for one in damage:
        cache.move_away(workspace, one.path)
    with suppress(ServiceError):  # of a damaged dvc.lock
        versioning.restore(workspace, [one.path for one in damage])
    for one in damage:
        whole = one.path.exists() and not _output_fault(workspace, one.path)
        if not whole:
            durable.remove(one.path)
        yield Damage(one.path, one.fault, "Restored from DVC's cache" if whole else ANEW, whole)


def _kept_fault(workspace: Path, path: Path) -> str | None:
    from rlhf.models.cached import whole  # loads torch

    return None if whole(path) else "does not hold what was computed"


def _reply_fault(workspace: Path, path: Path) -> str | None:
    from rlhf.judges.endpoint import read_reply

    return None if read_reply(path) is not None else "does not hold what the judge said"


def _champion_fault(workspace: Path, path: Path) -> str | None:
    return None if champions.whole(workspace, path.name) else "does not hold the champion that was promoted"


def _mend_champions(workspace: Path, damage: Sequence[Damage]) -> Iterator[Damage]:
    from rlhf.tracking.mirror import mirror

    for one in damage:
        cache.move_away(workspace, one.path)
    with suppress(ServiceError, DataError):
        mirror(workspace)
    for one in damage:
        whole = champions.whole(workspace, one.path.name)
        yield Damage(one.path, one.fault, f"Fetched again{'' if whole else ' by `rlhf sync`'}", whole)


def _mend_decisions(workspace: Path, damage: Sequence[Damage]) -> Iterator[Damage]:
    with suppress(DataError):
        now = standing.standing(workspace)
        for one in damage:
            cache.move_away(workspace, one.path)
            if now and now.digest == one.path.name:
                standing.keep(workspace, now)
    for one in damage:
        whole = standing.is_kept(one.path)
        yield Damage(one.path, one.fault, "Kept again" if whole else "Moved away: no other copy is here", whole)


def _records(workspace: Path) -> list[Path]:
    return [path for name in _RECORDS if (path := workspace / name).exists()]


def _raised(look: Callable[[], object]) -> str | None:
    """What `look` says is wrong."""
    try:
        look()
    except DataError as error:
        return str(error)
    return None


def _told(workspace: Path, damage: Sequence[Damage]) -> Sequence[Damage]:
    """Left as it is: the fault says what to do."""
    return damage


def _moved(done: str, mended: bool) -> Callable[[Path, Sequence[Damage]], Iterator[Damage]]:
    """Moved away, with what that means."""

    def move(workspace: Path, damage: Sequence[Damage]) -> Iterator[Damage]:
        for one in damage:
            cache.move_away(workspace, one.path)
            yield Damage(one.path, one.fault, done, mended)

    return move


def _below(pattern: str) -> Callable[[Path], list[Path]]:
    return lambda workspace: sorted(workspace.glob(pattern))


_RECORDS: dict[str, Callable[[Path], object]] = {
    "dvc.lock": lambda workspace: DvcLock(workspace).stages,
    champion.CHAMPION: champion.pinned,
    LEDGER: lambda workspace: Ledger.of(workspace).history(),
}
_CHECKPOINT = "Moved away: training goes on from the checkpoint before it"
_JOURNAL = "Moved away: what MLflow did not have of it yet is there only"
KINDS = (
    _Kind("cache objects", versioning.cache_objects, _object_fault, _mend_objects),
    _Kind("outputs", _outputs, _output_fault, _mend_outputs),
    _Kind(
        "checkpoints",
        _below(f"{WORK}/*/step-*"),
        lambda workspace, path: _raised(lambda: manifest.verified(path)),
        _moved(_CHECKPOINT, True),
    ),
    _Kind("kept tensors", _below(f"{KEPT}/[!.]*"), _kept_fault, _moved("It is computed again", True)),
    _Kind("judge's replies", _below(f"{REPLIES}/*/[!.]*"), _reply_fault, _moved("It is asked again", True)),
    _Kind("champions", _below(f"{champions.FILES}/[!.]*"), _champion_fault, _mend_champions),
    _Kind(
        "journals",
        journals,
        lambda workspace, path: _raised(lambda: deque(read(path), maxlen=0)),
        _moved(_JOURNAL, False),
    ),
    _Kind(
        "decisions",
        _below(f"{standing.DECISIONS}/[!.]*"),
        lambda workspace, path: None if standing.is_kept(path) else "does not hold the decision of its name",
        _mend_decisions,
    ),
    _Kind(
        "records",
        _records,
        lambda workspace, path: _raised(lambda: _RECORDS[path.relative_to(workspace).as_posix()](workspace)),
        _told,
    ),
)
