"""The table of rooms: who may import whom, and what. Held by walking every import of every module."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATION = {
    "errors",
    "durable",
    "locks",
    "failpoints",
    "secrets",
    "text",
    "sheets",
    "telemetry",
    "manifest",
    "garbage",
    "config",
    "serving",
}  # what any room may use
ORDER = ["objectives", "models", "batching", "rollouts", "training", "algorithms", "evaluation", "gate"]
TENSORS = {"torch", "transformers", "accelerate", "safetensors", "peft", "tokenizers", "numpy", "huggingface_hub"}

# What a room may use of other projects, and of the other rooms.
OUTSIDE = {
    "objectives": {"torch"},
    "models": TENSORS - {"accelerate"},
    "batching": {"torch", "transformers", "numpy", "jinja2"},
    "rollouts": {"torch", "transformers", "vllm"},
    "training": {"torch", "accelerate", "safetensors"},
    "algorithms": TENSORS,
    "evaluation": TENSORS,
    "gate": {"numpy", "scipy"},
    "judges": {"httpx", "numpy"},
    "data": {"pandas", "pandera", "datasets", "pyarrow", "numpy", "scipy"},
    "world": {"numpy"},
    "tracking": {"mlflow", "requests", "sqlalchemy", "yaml"},
}
# models reads batches: scoring is the one place where the two meet.
INSIDE = {room: set(ORDER[: ORDER.index(room)]) for room in ORDER} | {
    "models": {"objectives", "batching"},
    "gate": set(),
    "judges": {"gate"},
    "data": {"gate", "world"},
    "world": set(),
    "tracking": {"gate"},
}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("room", OUTSIDE)
def test_a_room_imports_what_the_table_allows(room: str) -> None:
    for path in modules(f"rlhf/{room}"):
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "rlhf":
                assert rest[0] in FOUNDATION | INSIDE[room] | {room}, f"{path} imports {name}"
            elif top not in sys.stdlib_module_names:
                assert top in OUTSIDE[room], f"{path} imports {name}"


@pytest.mark.parametrize(
    ("library", "homes"), [("dvc", ["rlhf/pipeline"]), ("mlflow", ["rlhf/tracking"]), ("prefect", ["flows"])]
)
def test_each_platform_has_one_importer(library: str, homes: list[str]) -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in ("rlhf", "tasks", "flows")
        for path in modules(package)
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert importers
    strangers = [path for path in importers if not any(path.startswith(home) for home in homes)]
    assert strangers == []


def test_flows_and_the_stage_runner_import_no_torch() -> None:
    for path in [*modules("flows"), *modules("rlhf/pipeline"), *modules("rlhf/config"), ROOT / "rlhf/cli/__init__.py"]:
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}, path


def test_stages_know_nothing_of_prefect_and_dvc() -> None:
    for path in modules("tasks"):
        assert not {name.split(".")[0] for name in imports(path)} & {"prefect", "dvc", "mlflow"}, path
