"""Where a model came from: the tree from a policy to the sources of its feedback, read from receipts alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.gate.ledger import Ledger
from rlhf.tracking.journal import stage_records
from rlhf.tracking.outputs import DvcLock, Output, find_output, flatten, model_outputs, stands
from rlhf.tracking.sent import registered_versions

LINEAGE = "lineage.json"  # the tree of a registered model, among its files


@dataclass(frozen=True)
class Node:
    """One output, or one source of feedback, and what it was made from."""

    name: str  # path in the workspace, "models/sft"; of a source, its kind and place
    stage: str  # stage that made it; "source" for a source
    key: str | None = None  # stage key; None when the receipt is gone
    digest: str | None = None  # sha256 of its manifest
    md5: str | None = None  # digest that DVC knows it by
    code: str | None = None  # fingerprint of the stage's code
    commit: str | None = None  # git commit of the workspace that made it; "+" after it: with uncommitted changes
    program: str | None = None  # version of this program that made it, and its commit where it was a checkout
    version: str | None = None  # registered version in MLflow, "small-sft/3"
    params: Mapping[str, Any] = field(default_factory=dict)  # dotted names
    children: tuple["Node", ...] = ()

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Node":
        """The inverse of `asdict`."""
        return cls(**{**tree, "children": tuple(cls.from_dict(child) for child in tree["children"])})

    def walk(self) -> Iterator["Node"]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def lineage(workspace: Path, model: str = "champion") -> Node:
    """The tree of `model`: champion, base, sft, reward, reward-helpful, referee, an algorithm (dpo), a path, or a
    registered version (policy/3).

    What still stands in the workspace is answered from its receipts, without a server; a registered version whose files
    are no longer there from the tree stored with it. Raises DataError when there is no such model.
    """
    if model in ("champion", "policy@champion"):
        return _of_champion(workspace)
    output = _local(workspace, model)
    if output:
        return tree(workspace, output)
    if "@" in model or "/" in model:
        from rlhf.tracking.registry import look_up, stored_lineage  # costs seconds: imports mlflow

        return stored_lineage(workspace, lambda store: look_up(store, model))
    known = ", ".join(output.path for output in model_outputs(workspace)) or "none yet; make some with `rlhf run`"
    raise DataError(f"There is no model `{model}` in {workspace}. Models: {known}")


def tree(workspace: Path, output: Output) -> Node:
    """The tree of an output that stands in the workspace."""
    return _node(workspace, output.path, output.digest, DvcLock(workspace), registered_versions(workspace))


def _of_champion(workspace: Path) -> Node:
    """The tree of whom the ledger names: the alias in MLflow may lag behind it."""
    champion = Ledger.of(workspace).current()
    if champion is None:
        raise DataError(f"{workspace} has no champion yet. Make one with `rlhf promote`, or name a model: sft, dpo")
    output = next((output for output in model_outputs(workspace) if output.digest == champion.policy), None)
    if output:
        return tree(workspace, output)
    from rlhf.tracking.registry import champions_version, stored_lineage  # costs seconds: imports mlflow

    return stored_lineage(workspace, lambda store: champions_version(store, champion))


def _local(workspace: Path, model: str) -> Output | None:
    """The output of the workspace that `model` names."""
    versions = registered_versions(workspace)
    for output in model_outputs(workspace):
        version = versions.get(output.key, "")
        if model in (output.path, output.name, version, f"{output.kind}/{version.rpartition('/')[2]}"):
            return output
    return None


def _node(workspace: Path, path: str, digest: str, lock: DvcLock, versions: Mapping[str, str]) -> Node:
    """The node of what stands at `path`; without children when it has been replaced by another since."""
    output = find_output(workspace, path)
    if output is None and (workspace / path).is_dir():
        return Node(path, "source", digest=digest)  # nobody's output, and not hashed again
    if not stands(workspace, path, digest):
        return Node(path, "replaced since", digest=digest)
    if output is None:
        whole = find_output(workspace, str(Path(path).parent))
        inside = (_node(workspace, whole.path, whole.digest, lock, versions),) if whole else ()
        made_by = inside[0].stage if inside else "source"
        return Node(path, made_by, digest=digest, md5=lock.digest(path, digest), children=inside)
    receipt, start = output.receipt, _started(workspace, output.key)
    made = {name: sha256 for name, sha256 in receipt["inputs"].items() if not name.startswith("reports/")}
    children = [_node(workspace, name, sha256, lock, versions) for name, sha256 in made.items()]
    children += [node for node in _sources(receipt["params"]) if node.params.get("path") not in receipt["inputs"]]
    return Node(
        name=path,
        stage=receipt["stage"],
        key=output.key,
        digest=digest,
        md5=lock.digest(path, digest),
        code=receipt.get("code"),
        commit=commit_name(start.get("git")),
        program=program_name(start.get("program")),
        version=versions.get(output.key),
        params=dict(flatten(receipt["params"])),
        children=tuple(children),
    )


def _sources(params: Mapping[str, Any]) -> list[Node]:
    """The sources that collect read, from its parameters."""
    sources = params.get("collect", {}).get("sources", ())
    return [Node(" ".join([s["kind"], *_places(s)]), "source", params=dict(flatten(s))) for s in sources]


def _places(source: Mapping[str, Any]) -> list[str]:
    return [str(source[name]) for name in ("path", "table", "revision") if source.get(name)]


def _started(workspace: Path, key: str) -> Mapping[str, Any]:
    """How the first execution with this key began, by its journal; nothing where it was elsewhere."""
    return next((record for record in stage_records(workspace, key) if record["kind"] == "start"), {})


def commit_name(git: Mapping[str, Any] | None) -> str | None:
    """A commit, with "+" when there were uncommitted changes."""
    return f"{git['commit']}{'+' if git.get('dirty') else ''}" if git and git.get("commit") else None


def program_name(program: Mapping[str, Any] | None) -> str | None:
    """A version of this program, with its commit where it was a checkout."""
    return " ".join(filter(None, [program["version"], commit_name(program["git"])])) if program else None
