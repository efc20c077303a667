"""What is damaged on the disk is seen before it is used: refused by name, made anew, or passed over for a good one."""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import manifest
from rlhf.errors import DataError
from rlhf.gate.ledger import LEDGER, Ledger
from rlhf.judges.endpoint import read_reply
from rlhf.models.cached import cached
from rlhf.pipeline import cache, champion, fingerprint, versioning
from rlhf.pipeline.events import Listener
from rlhf.tracking import champions, standing
from rlhf.tracking.journal import HEAD, read
from rlhf.tracking.sent import load_sent
from rlhf.training.checkpoint import Checkpoints
from tests.pipeline.kept import REPLY, RUN, TENSORS, VALUES, WORK, fill, learner

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but one byte": lambda data: data[:-1],
    "last page zeroed": lambda data: data[:-4096] + bytes(min(len(data), 4096)),
    **{f"bit flipped at {part}/4": lambda data, part=part: flipped(data, part * len(data) // 4) for part in (1, 2, 3)},
}
REFUSED = ("weights", "rows", "report", "receipt", "manifest")  # whatever the damage


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@dataclass(frozen=True)
class Kind:
    """A kind of file, how it is used, and what may come of the use of a damaged one beside a refusal by name."""

    file: str  # a pattern in the workspace; the first that it matches
    use: Callable[[Path, Path], Any]  # of the workspace and the file
    otherwise: Callable[[Any, Any], bool] = lambda found, before: False


def restored(workspace: Path, file: Path) -> tuple[int, float]:
    module, optimizer = learner()
    step, history = Checkpoints(workspace / WORK).restore(module, optimizer)
    assert history == [{"step": step}]
    return step, float(next(module.parameters()).detach().sum())


def listened(workspace: Path, file: Path) -> str | None:
    said = file.read_bytes()
    listener = Listener(workspace, "rows", lambda *event: None)
    file.write_bytes(said)
    listener.read()
    return listener.key


def equal(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == VALUES.keys() and torch.equal(tensors["x"], VALUES["x"])


def of_output(workspace: Path, file: Path) -> str:
    return manifest.digest(file.parent)


def as_pinned(workspace: Path, file: Path) -> champion.Pinned:
    """DVC sees that it changed, so the stages that read it are stale, and it is written from the ledger."""
    champion.pinned(workspace)
    return champion.due(workspace, {"gate"})


def stale(workspace: Path, file: Path) -> set[str]:
    """What would run or be restored: what dvc.lock no longer proves."""
    return versioning.stale_stages(workspace)


OBJECT, MANIFEST = ".dvc/cache/files/md5/*/*", "MANIFEST.json"
KINDS = {
    "object of DVC's cache": Kind(OBJECT, lambda w, file: cache.object_fault(file), lambda found, _: bool(found)),
    "weights": Kind("models/other/model.safetensors", of_output),
    "rows": Kind("models/other/rows.parquet", of_output),
    "report": Kind("models/other/report.json", of_output),
    "receipt": Kind("models/other/receipt.json", of_output),
    "manifest": Kind("models/other/MANIFEST.json", of_output),
    **{
        f"{name} of a checkpoint": Kind(f"{WORK}/step-00000002/{name}", restored, lambda found, _: found[0] == 1)
        for name in ("weights.safetensors", "optimizer.safetensors", "state.json", MANIFEST)
    },
    "journal": Kind(
        RUN,
        lambda w, file: list(read(file)),
        lambda found, before: found == before[: len(found)],  # a torn tail
    ),
    "kept tensors": Kind(TENSORS, lambda w, file: equal(cached(file, lambda: VALUES))),
    "dvc.lock": Kind("dvc.lock", stale, lambda found, _: bool(found)),
    "code.json": Kind("code.json", lambda w, file: fingerprint.refresh(w) or fingerprint.stored(w), lambda f, _: f),
    "champion.json": Kind("champion.json", as_pinned),
    "kept decision": Kind(
        f"{standing.DECISIONS}/*/decision.json", lambda w, f: standing.is_kept(f.parent), lambda f, _: not f
    ),
    "champion's files": Kind(
        f"{champions.FILES}/*/model.safetensors",
        lambda w, file: champions.whole(w, file.parent.name),
        lambda found, _: not found,
    ),
    "ledger": Kind(LEDGER, lambda w, file: (Ledger(file).history(), Ledger(file).judged())),
    "offsets of the sender": Kind(
        ".rlhf/sent/*.json", lambda w, file: load_sent(w).journals, lambda found, _: found == {}
    ),
    "judge's reply": Kind(REPLY, lambda w, file: read_reply(file), lambda found, _: found is None),
    "events": Kind(".rlhf/events/rows.jsonl", listened, lambda found, _: found is None),
}


@pytest.fixture(scope="module")
def kept(finished_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with every kind of file; every test leaves it as it was."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        directory = shutil.copytree(finished_workspace, tmp_path_factory.mktemp("kept") / "workspace")
        fill(directory)
    events = directory / ".rlhf/events/rows.jsonl"
    events.parent.mkdir(parents=True)
    events.write_text('{"event": "progress", "done": 1, "total": 2, "label": "steps"}\n' * 3)
    with open(events, "a") as file:
        file.write('{"event": "key", "key": "5f0c", "pid": 1}\n')
    return directory


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, bytes], None]]:
    """Write over a file as the disk does, without asking for its mode; put back what was there at the end."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before: dict[Path, bytes] = {}

    def write(file: Path, data: bytes) -> None:
        before.setdefault(file, file.read_bytes())
        mode, times = file.stat().st_mode, file.stat().st_mtime_ns
        file.chmod(0o644)
        file.write_bytes(data)
        file.chmod(mode)
        os.utime(file, ns=(times, times + 10**9))

    yield write
    for file, data in before.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_seen_before_use(kept: Path, put: Callable[[Path, bytes], None], name: str, damage: str) -> None:
    kind = KINDS[name]
    file = sorted(kept.glob(kind.file))[0]
    whole, before = file.read_bytes(), kind.use(kept, file)
    bad = DAMAGES[damage](whole)
    assert bad != whole
    put(file, bad)
    refusal, found = None, None
    try:
        found = kind.use(kept, file)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert str(file.relative_to(kept)) in refusal
        assert any(word in refusal for word in ("again", "Bring", "rlhf scrub")), "it must say what to do"
    else:
        assert found == before or kind.otherwise(found, before), found
        assert name not in REFUSED


@pytest.mark.parametrize("name", ["champion.json", "decision", "journal", "state.json of a checkpoint"])
def test_a_file_of_a_later_format_is_refused_by_name(kept: Path, put: Callable[[Path, bytes], None], name: str) -> None:
    kind = KINDS.get(name) or Kind(standing.DECISION, lambda workspace, _: standing.standing(workspace))
    file = next(kept.glob(kind.file))
    if name == "journal":
        content = file.read_bytes().split(b"\n")
        body = content[0].replace(b'"format":1', b'"format":7')[HEAD:]
        put(file, b"\n".join([b'{"crc":"%08x",' % zlib.crc32(b"{" + body) + body, *content[1:]]))
    else:
        put(file, json.dumps(json.loads(file.read_bytes()) | {"format": 7}).encode())
    if file.name == "state.json":
        put(file.parent / MANIFEST, (file.parent / MANIFEST).read_bytes())
        manifest.write_manifest(file.parent)
    reads = 2 if name == "champion.json" else 1
    with pytest.raises(
        DataError, match=rf"{file.name} is of format 7, and this rlhf reads format {reads}\. Use the rlhf"
    ):
        kind.use(kept, file)


def test_an_offset_that_became_another_number_is_not_believed(kept: Path, put: Callable[[Path, bytes], None]) -> None:
    (file,) = kept.glob(".rlhf/sent/*.json")
    assert load_sent(kept).journals[RUN].offset == 1234
    put(file, file.read_bytes().replace(b"1234", b"5234"))
    assert load_sent(kept).journals == {}, "records before it would be passed over"
