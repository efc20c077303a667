"""The champions' files: what is served, and what the next policy is compared with, kept by the digest of their bytes.

They come from the registry, not from the workspace, and are verified on this side of the wire: the bytes in use are the
bytes that were evaluated.
"""

from collections.abc import Collection
from pathlib import Path

from rlhf import durable, manifest
from rlhf.errors import DataError
from rlhf.tracking.registry import Registered, download
from rlhf.tracking.store import Store

FILES = ".rlhf/champions"  # of a workspace: a directory for each of the last two champions, by its digest


def whole(workspace: Path, policy: str) -> bool:
    """Whether the files of a champion are here, each as it was promoted."""
    try:
        return manifest.digest(workspace / FILES / policy) == policy
    except DataError:
        return False


def fetch(workspace: Path, store: Store, registered: Registered) -> bool:
    """Bring the files of a registered version here, where they are missing or damaged. Returns whether they were.

    Raises DataError when the registry's are not those that were registered; nothing is changed then.
    """
    if whole(workspace, registered.digest):
        return False
    download(store, registered, workspace / FILES / registered.digest)
    return True


def forget(workspace: Path, but: Collection[str]) -> None:
    """Remove the files of all champions `but` these."""
    for path in (workspace / FILES).glob("[!.]*"):
        if path.name not in but:
            durable.remove(path)
