"""Every model of a workspace becomes a version of a registered model: one a result of a stage key, with its files and
lineage."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlhf.text import markdown
from rlhf.tracking.journal import stage_journal
from rlhf.tracking.lineage import LINEAGE, Node, tree
from rlhf.tracking.outputs import DvcLock, Output, model_outputs, verify
from rlhf.tracking.registry import DIGEST, KEY, MODEL, Registered, find, model_name, registered_as, versions_of
from rlhf.tracking.runs import VALUE, Runs, key_name, link_models, log, stage_facts
from rlhf.tracking.store import Store, as_default, expecting, registering


def register_outputs(workspace: Path, store: Store, runs: Runs) -> dict[str, Registered]:
    """Register every model of the workspace that has no version yet; return all, by digest.

    Raises DataError for a model whose files are not those of its manifest, Busy when another process registers.
    """
    found: dict[str, Registered] = {}
    for output in model_outputs(workspace):
        with registering(workspace):
            registered = find(store, model_name(store, output.kind), output.key, output.digest)
            registered = registered or _register(workspace, store, runs, output)
            read = [found[digest].model_id for digest in output.receipt["inputs"].values() if digest in found]
            link_models(store, runs.stage(output.receipt["stage"], output.key), read, [registered.model_id])
        found[output.digest] = registered
    return found


def _register(workspace: Path, store: Store, runs: Runs, output: Output) -> Registered:
    """Upload the files and make the version. What a crash left half done is used, not made twice."""
    verify(output.directory, output.digest)
    run_id = runs.anywhere(output.key) or _new_run(workspace, store, runs, output)
    node = replace(tree(workspace, output), md5=None)  # DVC may not have committed it yet
    tags = {KEY: output.key, DIGEST: output.digest, "stage": output.receipt["stage"], **_upstream_tags(node)}
    model = _logged_model(store, run_id, output, node, tags)
    name = model_name(store, output.kind)
    with expecting("RESOURCE_ALREADY_EXISTS"):
        store.client.create_registered_model(name)
    tags[MODEL] = model
    text = _description(store, runs, node)
    with as_default(store.uri):
        store.client.create_model_version(name, f"models:/{model}", run_id, tags, description=text, model_id=model)
    version, *others = versions_of(store, name, output.key, output.digest)
    for other in others:
        with expecting("RESOURCE_DOES_NOT_EXIST"):
            store.client.delete_model_version(name, other.version)
    return registered_as(version)


def _logged_model(store: Store, run_id: str, output: Output, node: Node, tags: dict[str, str]) -> str:
    """Id of MLflow's logged model that holds the files, made and filled when it is not there or not whole."""
    filters = f"tags.{KEY} = '{output.key}' AND tags.{DIGEST} = '{output.digest}'"
    models = store.client.search_logged_models([store.experiment_id], filters, max_results=1)
    given = (store.experiment_id, output.name, run_id, tags, _strings(node.params), output.kind)
    model = models[0] if models else store.client.create_logged_model(*given)
    if model.status != "READY":
        with tempfile.TemporaryDirectory() as directory:
            store.client.log_model_artifacts(model.model_id, str(output.directory))
            (Path(directory) / LINEAGE).write_text(json.dumps(asdict(node), indent=1), encoding="utf-8")
            store.client.log_model_artifacts(model.model_id, directory)
        verify(output.directory, output.digest)  # DVC may have replaced it during the upload
        store.client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


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
            name = f"[{markdown(child.name)}]({store.link(run)})" if run else markdown(child.name)
            dvc = f", DVC `{child.md5}`" if child.md5 else ""
            lines.append(f"* {name}: {markdown(child.stage)}, key `{child.key[:12]}`{dvc}")
    return "Made from, the model itself first:\n\n" + "\n".join(lines)


def _strings(params: Mapping[str, Any]) -> dict[str, str]:
    return {key_name(name): str(value)[:VALUE] for name, value in params.items()}
