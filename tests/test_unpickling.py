"""Nothing in the repository opens a pickle: every call that could is found by walking the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CODE = [file for package in ("rlhf", "tasks", "flows", "benchmarks") for file in sorted((ROOT / package).rglob("*.py"))]


def faults(source: str) -> Iterator[str]:
    """What in a module could run the code that a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLING:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only"
            if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False":
                yield f"{name}: {given}"
            if name.endswith(("read_pickle", "to_pickle", "yaml.unsafe_load", "yaml.full_load")):
                yield name
            if name == "yaml.load" and "Loader" not in given:
                yield "yaml.load without a loader"
            if name.endswith("from_pretrained") and "Auto" in name and "trust_remote_code" not in given:
                yield f"{name} without trust_remote_code=False"
            if given.get("shell") == "True" or name == "os.system":
                yield f"{name} by a shell"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.unsafe_load(text)",
        "yaml.load(text)",
        "AutoModel.from_pretrained(path)",
        "kind.from_pretrained(path, trust_remote_code=True)",
        "subprocess.run(words, shell=True)",
    ],
)
def test_a_call_that_runs_what_a_file_holds_is_found(line: str) -> None:
    assert list(faults(line))


def test_no_code_of_ours_opens_a_pickle_or_runs_a_shell() -> None:
    assert len(CODE) > 100
    found = {str(file.relative_to(ROOT)): list(faults(file.read_text())) for file in CODE}
    assert {name: what for name, what in found.items() if what} == {}
