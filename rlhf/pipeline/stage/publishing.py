"""What a stage leaves: outputs that appear whole, every directory with its receipt and, written last, its manifest."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf import durable, manifest
from rlhf.manifest import RECEIPT
from rlhf.pipeline.graph import StageSpec


def publish(workspace: Path, spec: StageSpec, receipt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Seal every output, then give all of them their names; the path and the digest of each, once it has its name.

    Raises FileNotFoundError where the stage did not make all that it declares: nothing has its name then.
    """
    staged = {path: durable.partial(workspace / path) for path in spec.made}
    missing = [path for path, temporary in staged.items() if not temporary.exists()]
    if missing:
        raise FileNotFoundError(f"stage `{spec.name}` ended without making {', '.join(missing)}")
    digests = {path: _sealed(temporary, receipt) for path, temporary in staged.items()}
    for path, temporary in staged.items():
        durable.publish(temporary, workspace / path)
        yield path, digests[path]


def discard(workspace: Path, spec: StageSpec) -> None:
    """Remove what was begun and not published, by this run or by one that was killed."""
    for path in spec.made:
        durable.remove(durable.partial(workspace / path))


def _sealed(temporary: Path, receipt: Mapping[str, Any]) -> str:
    """Add receipt and manifest to a directory; return the digest of a directory or a file."""
    if temporary.is_file():
        return manifest.sha256(temporary)
    durable.write_json(temporary / RECEIPT, receipt)
    return manifest.write_manifest(temporary)
