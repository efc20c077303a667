"""code.json: for every stage a fingerprint of the code that makes its bytes, a parameter file to DVC.

A fingerprint is the SHA-256 over the syntax trees of the stage's program and of every module of `tasks` and `rlhf`
that it imports, however deep, imports inside functions included, and over the templates of pages that stand beside
these. Comments, blank lines and docstrings do not count. Nothing is imported to find out.

Left out, though stages import them: rlhf.pipeline, which moves bytes and does not make them; rlhf.config, whose values
are in the params of each stage already, so that a new section does not run everything again; rlhf.errors, which a stage
that succeeded never raised.

    python -m rlhf.pipeline.fingerprint            write code.json of this workspace
    python -m rlhf.pipeline.fingerprint --check    exit code 1 when it is stale
"""

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import rlhf
from rlhf import durable
from rlhf.errors import ConfigError
from rlhf.pipeline.graph import CODE, StageSpec, load_graph

ROOT = Path(rlhf.__file__).resolve().parent.parent  # holds the packages `rlhf` and `tasks`
PACKAGES = ("rlhf", "tasks")
LEFT_OUT = ("rlhf.pipeline", "rlhf.config", "rlhf.errors")
_PROGRAM = re.compile(r"\s(?:-m|--module)[\s=]+(?P<module>[\w.]+)|\s(?P<script>\S+\.py)\b")


def packages() -> dict[str, str]:
    """Environment in which a process finds this project's packages first, and no modules of where it is started."""
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONSAFEPATH": "1",
    }


def refresh(workspace: Path) -> bool:
    """Bring code.json up to date. Returns whether it changed, and then only writes it."""
    fresh = fingerprints(workspace)
    if stored(workspace) == fresh:
        return False
    durable.write_json(workspace / CODE, fresh)
    return True


def fingerprints(workspace: Path) -> dict[str, str]:
    """The fingerprint of every stage of the workspace that declares code.json among its params, by the code that lies
    there now."""
    for read in (_imports, _module_file, _tree, _tree_digest):
        read.cache_clear()
    declared = (spec for spec in load_graph(workspace) if CODE in spec.params)
    return {spec.program: of_program(program_file(spec, workspace)) for spec in declared}


def program_file(spec: StageSpec, workspace: Path) -> Path:
    """The file that a stage's command runs: `python -m tasks.x`, `python script.py`, or one of these behind a launcher.

    Raises ConfigError where it is not found.
    """
    named = _PROGRAM.finditer(spec.cmd)
    files = (_module_file(found["module"]) if found["module"] else workspace / found["script"] for found in named)
    path = next((file for file in files if file and file.is_file()), None)
    if path is None:
        raise ConfigError(f"dvc.yaml: the program of stage `{spec.name}` is not found: {spec.cmd}")
    return path


def of_program(path: Path) -> str:
    """The fingerprint of a program: the digests of its tree and of every module that it reaches, by name."""
    reached: set[str] = set()
    frontier = set(_imports(path, _module_name(path)))
    while frontier:
        name = frontier.pop()
        reached.add(name)
        file = _module_file(name)
        assert file is not None, name
        frontier |= set(_imports(file, name)) - reached
    parts = [_tree_digest(path), *(f"{name} {_tree_digest(_module_file(name))}" for name in sorted(reached))]
    for name in sorted(reached):
        templates = sorted(ROOT.joinpath(*name.split("."), "templates").glob("*"))
        parts += [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in templates]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stored(workspace: Path) -> dict[str, str] | None:
    """What code.json says; None where it is missing or damaged: `refresh` writes it anew."""
    try:
        found = json.loads((workspace / CODE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@cache
def _imports(file: Path, module: str) -> tuple[str, ...]:
    """Modules of PACKAGES that a file imports anywhere, the packages around them included."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _statements(_tree(file)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            names.update([origin, *(f"{origin}.{alias.name}" for alias in node.names)])
    around = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    return tuple(sorted(name for name in around if _counts(name)))


def _counts(name: str) -> bool:
    left_out = any(name == other or name.startswith(other + ".") for other in LEFT_OUT)
    return name.split(".")[0] in PACKAGES and not left_out and _module_file(name) is not None


@cache
def _module_file(name: str) -> Path | None:
    """The source file of a module of PACKAGES; None when there is none, as for a function that is imported."""
    base = ROOT.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _module_name(path: Path) -> str:
    resolved = path.resolve()
    return ".".join(resolved.relative_to(ROOT).with_suffix("").parts) if resolved.is_relative_to(ROOT) else path.stem


@cache
def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno} is not Python: {error.msg}") from None


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes of a tree that are no expressions, inside of which no statement can be."""
    frontier: list[ast.AST] = [tree]
    while frontier:
        node = frontier.pop()
        yield node
        frontier += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]


@cache
def _tree_digest(file: Path) -> str:
    shape: list[str] = []
    _append_shape(_tree(file), shape)
    return hashlib.sha256("".join(shape).encode()).hexdigest()


def _append_shape(node: Any, shape: list[str]) -> None:
    """A syntax tree as text without positions, docstrings and empty fields, the same for every version of Python."""
    if isinstance(node, ast.AST):
        shape.append(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list) and _is_docstring(node, value[:1]):
                value = value[1:]
            if value is not None and value != []:
                shape.append(f" {name}=")
                _append_shape(value, shape)
        shape.append(")")
    elif isinstance(node, list):
        shape.append("[")
        for entry in node:
            _append_shape(entry, shape)
        shape.append("]")
    else:
        shape.append(repr(node))


def _is_docstring(node: ast.AST, first: list[ast.stmt]) -> bool:
    owner = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    constant = first[0].value if first and isinstance(first[0], ast.Expr) else None
    return owner and isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def main(arguments: list[str]) -> int:
    """The command line of this module."""
    workspace = Path.cwd()
    if "--check" not in arguments:
        refresh(workspace)
        return 0
    fresh, there = fingerprints(workspace), stored(workspace)
    if there != fresh:
        sys.stderr.write(f"{CODE} is stale; write it anew: python -m rlhf.pipeline.fingerprint\n")
    return int(there != fresh)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
