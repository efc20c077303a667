"""Registered models, found by name or stage key, and fetched.

They are `<prefix>-base`, `-sft`, `-reward`, `-referee` and `-policy`; the reward model of another criterion than
`overall` is `-reward-<criterion>`.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable
from rlhf.errors import DataError
from rlhf.gate.ledger import Champion
from rlhf.locks import hold
from rlhf.tracking.lineage import LINEAGE, Node
from rlhf.tracking.outputs import MANIFEST, MODELS, model_outputs, verify
from rlhf.tracking.store import DOWNLOAD_SECONDS, Store, connect, reaching, transferring

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

KINDS = tuple(pattern.split("/")[1] for pattern in MODELS)
KEY, DIGEST, MODEL = "stage_key", "digest", "logged_model"  # tags of a version


@dataclass(frozen=True)
class Registered:
    """One version of a registered model."""

    name: str  # small-sft
    version: str
    key: str  # stage key
    digest: str  # sha256 of its manifest
    model_id: str  # MLflow's logged model, which holds the files

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def model_name(store: Store, kind: str) -> str:
    """The registered model of a kind of output."""
    return f"{store.prefix}-{kind}"


def find(store: Store, name: str, key: str, digest: str) -> Registered | None:
    """The version of a registered model that a stage key made, and that holds the files of a digest.

    The same key gives other bytes on another machine, or from a model that was exchanged where it lies.
    """
    versions = versions_of(store, name, key, digest)
    return registered_as(versions[0]) if versions else None


def versions_of(store: Store, name: str, key: str, digest: str) -> "list[ModelVersion]":
    """The versions of a stage key and a digest, the first one first: more than one where a request came twice."""
    tags = f"tags.{KEY} = '{key}' AND tags.{DIGEST} = '{digest}'"
    found = store.client.search_model_versions(f"name = '{name}' AND {tags}")
    return sorted(found, key=lambda version: int(version.version))


def resolve(workspace: Path, model: str) -> Path:
    """A local directory with the files of a registered model, verified: sft (the latest), policy/3, policy@champion.

    The files are the workspace's own when they are the same, else a download kept in .rlhf/models.
    Raises DataError when there is no such model or its files are damaged, ServiceError when MLflow does not answer.
    """
    store = connect(workspace)
    with reaching(store.uri):
        registered = look_up(store, model)
        for output in model_outputs(workspace):
            if output.digest == registered.digest:
                verify(output.directory, registered.digest)
                return output.directory
        target = workspace / ".rlhf/models" / registered.digest[:16]
        if not target.exists():
            download(store, registered, target)
    verify(target, registered.digest)
    return target


def stored_lineage(workspace: Path, which: Callable[[Store], Registered]) -> Node:
    """The tree that was stored with a registered version, which `which` finds. Raises as `resolve` does."""
    store = connect(workspace)
    with reaching(store.uri), tempfile.TemporaryDirectory() as directory:
        registered = which(store)
        file = _fetch(store, registered, Path(directory), LINEAGE)
        return replace(Node.from_dict(json.loads(file.read_text(encoding="utf-8"))), version=str(registered))


def champions_version(store: Store, champion: Champion) -> Registered:
    """The version of whom the ledger names. Raises DataError where the store has none."""
    found = find(store, model_name(store, "policy"), champion.candidate_key, champion.policy)
    if found is None:
        raise DataError(f"MLflow holds no version of the champion, {champion.version} when it was promoted")
    return found


def look_up(store: Store, model: str) -> Registered:
    """The version that `model` names: kind, kind/version or kind@alias; the experiment's name may stand before it."""
    from mlflow.exceptions import MlflowException

    kind, mark, which = model.removeprefix(f"{store.prefix}-").replace("@", "/@").partition("/")
    if kind not in KINDS and not kind.startswith("reward-"):
        raise DataError(
            f"`{model}` names no model. Say an algorithm, such as dpo; or {', '.join(KINDS)}, reward-CRITERION, with "
            "/VERSION or @champion behind it"
        )
    name = model_name(store, kind)
    try:
        if which.startswith("@"):
            return registered_as(store.client.get_model_version_by_alias(name, which[1:]))
        if mark:
            return registered_as(store.client.get_model_version(name, which))
        versions = store.client.search_model_versions(f"name = '{name}'")
        return registered_as(max(versions, key=lambda version: int(version.version)))
    except (MlflowException, ValueError) as error:
        if isinstance(error, MlflowException) and error.error_code not in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):
            raise
        raise DataError(f"MLflow holds no model `{model}`. `rlhf sync` registers what the workspace holds") from None


def download(store: Store, registered: Registered, target: Path) -> None:
    """Fetch the files of a version, verified; `target` appears whole or not at all, in place of what is there.

    Raises DataError when what came is not what was registered, Busy when another process fetches for very long.
    """
    temporary = durable.partial(target)
    with hold(target.parent / ".lock", f"The directory {target.parent}", 600.0):
        durable.remove(temporary)
        temporary.mkdir(parents=True)
        try:
            files = _fetch(store, registered, temporary, "")
            (files / LINEAGE).unlink(missing_ok=True)  # stored beside the files of the model: not one of them
            verify(files, registered.digest)
            durable.publish(files, target)
        finally:
            durable.remove(temporary)


def _fetch(store: Store, registered: Registered, target: Path, name: str) -> Path:
    from mlflow.artifacts import download_artifacts

    root = store.client.get_logged_model(registered.model_id).artifact_location
    uri = f"{root}/{name}" if name else root
    with transferring(DOWNLOAD_SECONDS):
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=store.uri))


def registered_as(version: "ModelVersion") -> Registered:
    """A version, by the tags that this pipeline gives it. Raises DataError for another's."""
    tags: Mapping[str, Any] = version.tags
    missing = [tag for tag in (KEY, DIGEST, MODEL) if tag not in tags]
    if missing:
        raise DataError(
            f"{version.name}/{version.version} was not registered by this pipeline: it has no tag {', '.join(missing)} "
            f"(see {MANIFEST}). Name another version"
        )
    return Registered(version.name, str(version.version), tags[KEY], tags[DIGEST], tags[MODEL])
