"""Registered models, `<prefix>-base`, `-sft`, `-reward`, `-referee`, `-policy`: one version a stage key, with files and
lineage.

The reward model of another criterion than `overall` is `-reward-<criterion>`.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import durable
from rlhf.errors import DataError
from rlhf.tracking.lineage import LINEAGE, Node, to_json, tree
from rlhf.tracking.locks import locked
from rlhf.tracking.outputs import MANIFEST, DvcLock, Output, model_outputs, verify
from rlhf.tracking.runs import VALUE, Runs, key_name, link_models, log, stage_facts, stage_journal
from rlhf.tracking.store import Store, as_default, connect, expecting, reaching, registering, transferring

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

KINDS = ("base", "sft", "reward", "referee", "policy")
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


def register_outputs(workspace: Path, store: Store, runs: Runs) -> dict[str, Registered]:
    """Register every model of the workspace whose stage key has no version yet; return all, by digest.

    Raises DataError for a model whose files are not those of its manifest, Busy when another process registers.
    """
    found: dict[str, Registered] = {}
    for output in model_outputs(workspace):
        with registering(workspace):
            registered = find(store, _name(store, output.kind), output.key) or _register(workspace, store, runs, output)
            read = [found[digest].model_id for digest in output.receipt["inputs"].values() if digest in found]
            link_models(store, runs.stage(output.receipt["stage"], output.key), read, [registered.model_id])
        found[output.digest] = registered
    return found


def find(store: Store, name: str, key: str) -> Registered | None:
    """The version of a registered model that was made by a stage key."""
    versions = _versions(store, name, key)
    return _registered(versions[0]) if versions else None


def _versions(store: Store, name: str, key: str) -> "list[ModelVersion]":
    """The versions that a stage key made, the first one first: more than one where a request came twice."""
    found = store.client.search_model_versions(f"name = '{name}' AND tags.{KEY} = '{key}'")
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


def stored_lineage(workspace: Path, model: str) -> Node:
    """The tree that was stored with a registered version. Raises as `resolve` does."""
    store = connect(workspace)
    with reaching(store.uri), tempfile.TemporaryDirectory() as directory:
        registered = look_up(store, model)
        file = _fetch(store, registered, Path(directory), LINEAGE)
        return replace(Node.from_dict(json.loads(file.read_text(encoding="utf-8"))), version=str(registered))


def look_up(store: Store, model: str) -> Registered:
    """The version that `model` names: kind, kind/version or kind@alias; the experiment's name may stand before it."""
    from mlflow.exceptions import MlflowException

    kind, mark, which = model.removeprefix(f"{store.prefix}-").replace("@", "/@").partition("/")
    if kind not in KINDS and not kind.startswith("reward-"):
        raise DataError(
            f"`{model}` names no model. Say {', '.join(KINDS)}, reward-CRITERION, with /VERSION or @champion behind it"
        )
    name = _name(store, kind)
    try:
        if which.startswith("@"):
            return _registered(store.client.get_model_version_by_alias(name, which[1:]))
        if mark:
            return _registered(store.client.get_model_version(name, which))
        versions = store.client.search_model_versions(f"name = '{name}'")
        return _registered(max(versions, key=lambda version: int(version.version)))
    except (MlflowException, ValueError) as error:
        if isinstance(error, MlflowException) and error.error_code not in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):
            raise
        raise DataError(f"MLflow holds no model `{model}`. `rlhf sync` registers what the workspace holds") from None


def _register(workspace: Path, store: Store, runs: Runs, output: Output) -> Registered:
    """Upload the files and make the version. What a crash left half done is used, not made twice."""
    verify(output.directory, output.digest)
    run_id = runs.anywhere(output.key) or _new_run(workspace, store, runs, output)
    node = replace(tree(workspace, output), md5=None)  # DVC may not have committed it yet
    tags = {KEY: output.key, DIGEST: output.digest, "stage": output.receipt["stage"], **_upstream_tags(node)}
    filters = f"tags.{KEY} = '{output.key}' AND tags.{DIGEST} = '{output.digest}'"
    models = store.client.search_logged_models([store.experiment_id], filters, max_results=1)
    model = (
        models[0]
        if models
        else store.client.create_logged_model(
            store.experiment_id, output.name, run_id, tags, _strings(node.params), output.kind
        )
    )
    if model.status != "READY":
        with transferring(), tempfile.TemporaryDirectory() as directory:
            store.client.log_model_artifacts(model.model_id, str(output.directory))
            (Path(directory) / LINEAGE).write_text(to_json(node), encoding="utf-8")
            store.client.log_model_artifacts(model.model_id, directory)
        verify(output.directory, output.digest)  # DVC may have replaced it during the upload
        store.client.finalize_logged_model(model.model_id, "READY")
    name = _name(store, output.kind)
    with expecting("RESOURCE_ALREADY_EXISTS"):
        store.client.create_registered_model(name)
    tags[MODEL] = model.model_id
    text = _description(store, runs, node)
    with as_default(store.uri):
        store.client.create_model_version(
            name, f"models:/{model.model_id}", run_id, tags, description=text, model_id=model.model_id
        )
    version, *others = _versions(store, name, output.key)
    for other in others:
        with expecting("RESOURCE_DOES_NOT_EXIST"):
            store.client.delete_model_version(name, other.version)
    return _registered(version)


def _new_run(workspace: Path, store: Store, runs: Runs, output: Output) -> str:
    """A run for the stage that made `output`, described by its receipt; its journal, when it is here, says the rest."""
    run_id, lock = runs.stage(output.receipt["stage"], output.key), DvcLock(workspace)
    facts = stage_facts(output.receipt, None, lock)
    restored = not stage_journal(workspace, output.key).exists()
    if restored:  # it ran elsewhere, and DVC brought its outputs here
        facts.tags["rlhf.restored"] = "true"
    log(store, run_id, facts, lock)
    if restored:
        store.client.set_terminated(run_id, "FINISHED")
    return run_id


def _upstream_tags(node: Node) -> dict[str, str]:
    """Tags that lead from a version to what it was made from."""
    above = {child.name: child for child in node.walk() if child is not node and child.key}
    tags = {f"upstream.{name}": child.key for name, child in above.items()}
    tags |= {f"dvc.md5.{name}": child.md5 for name, child in above.items()}
    tags |= {"code": node.code, "git.commit": node.commit}
    return {key_name(name): value for name, value in tags.items() if value}


def _description(store: Store, runs: Runs, node: Node) -> str:
    """The chain as a short list, with links to the runs."""
    lines, seen = [], set()
    for child in node.walk():
        if child.key and child.key not in seen:
            seen.add(child.key)
            run = runs.anywhere(child.key)
            name = f"[{child.name}]({store.link(run)})" if run else child.name
            dvc = f", DVC `{child.md5}`" if child.md5 else ""
            lines.append(f"* {name}: {child.stage}, key `{child.key[:12]}`{dvc}")
    return "Made from, the model itself first:\n\n" + "\n".join(lines)


def download(store: Store, registered: Registered, target: Path) -> None:
    """Fetch the files of a version, verified; `target` appears whole or not at all, in place of what is there.

    Raises DataError when what came is not what was registered, Busy when another process fetches for very long.
    """
    temporary = durable.partial(target)
    with locked(target.parent / ".lock", 600.0, "fetches a model"):
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
    with transferring():
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=store.uri))


def _registered(version: "ModelVersion") -> Registered:
    tags: Mapping[str, Any] = version.tags
    missing = [tag for tag in (KEY, DIGEST, MODEL) if tag not in tags]
    if missing:
        raise DataError(
            f"{version.name}/{version.version} was not registered by this pipeline: it has no tag {', '.join(missing)} "
            f"(see {MANIFEST}). Name another version"
        )
    return Registered(version.name, str(version.version), tags[KEY], tags[DIGEST], tags[MODEL])


def _name(store: Store, kind: str) -> str:
    return f"{store.prefix}-{kind}"


def _strings(params: Mapping[str, Any]) -> dict[str, str]:
    return {key_name(name): str(value)[:VALUE] for name, value in params.items()}
