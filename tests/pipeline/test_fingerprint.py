"""A fingerprint follows what the code does, through every import, and not how it is written."""

from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.pipeline import fingerprint

PROGRAM = '''"""A stage."""
from rlhf.models.loading import load

def main(stage):
    from rlhf import late
    return load(late.VALUE)
'''
FILES = {
    "tasks/__init__.py": "",
    "tasks/train.py": PROGRAM,
    "rlhf/__init__.py": "",
    "rlhf/late.py": "VALUE = 1\n",
    "rlhf/models/__init__.py": "",
    "rlhf/models/loading.py": "from . import deep\nimport rlhf.pipeline.stage\n\ndef load(x):\n    return deep.f(x)\n",
    "rlhf/models/deep.py": "def f(x):\n    return x + 1\n",
    "rlhf/models/other.py": "def g(x):\n    return x\n",
    "rlhf/pipeline/__init__.py": "",
    "rlhf/pipeline/stage.py": "import rlhf.models.other\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """Start as a new process does."""
    for cached in (fingerprint._imports, fingerprint._module_file, fingerprint._tree, fingerprint._tree_digest):
        cached.cache_clear()


def fresh(root: Path) -> str:
    forget()
    return fingerprint.of_program(root / "tasks/train.py")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tasks/train.py", "load(late.VALUE)", "load(late.VALUE + 0)"),
        ("rlhf/late.py", "1", "2"),  # imported inside a function
        ("rlhf/models/deep.py", "x + 1", "x + 2"),  # imported by an import, relatively
        ("rlhf/models/__init__.py", "", "import os\n"),  # a package on the way runs too
        ("rlhf/models/deep.py", "def f(x):", "def f(x, y=0):"),
    ],
)
def test_a_change_of_code_changes_it(root: Path, name: str, old: str, new: str) -> None:
    before = fresh(root)
    file = root / name
    file.write_text(file.read_text().replace(old, new, 1) if old else new)
    assert fresh(root) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tasks/train.py", '"""A stage."""', '"""Another text."""\n\n# and a comment\n'),
        ("tasks/train.py", '"""A stage."""', ""),
        ("rlhf/models/deep.py", "def f(x):\n", 'def f(x):\n    """What it does."""\n\n'),
        ("rlhf/models/deep.py", "return x + 1", "return (x +  1)  # why"),
        ("rlhf/models/other.py", "return x", "return -x"),  # reached only through the runner, which is left out
        ("rlhf/pipeline/stage.py", "import", "import os\nimport"),
    ],
)
def test_a_change_of_form_does_not(root: Path, name: str, old: str, new: str) -> None:
    before = fresh(root)
    file = root / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert fresh(root) == before


def test_a_docstring_alone_and_a_string_that_is_a_value_differ(root: Path) -> None:
    (root / "rlhf/late.py").write_text('VALUE = "a"\n')
    before = fresh(root)
    (root / "rlhf/late.py").write_text('VALUE = "b"\n')
    assert fresh(root) != before


def test_check_tells_whether_code_json_is_stale(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    assert fingerprint.main(["--check"]) == 0
    with open(workspace / "gate.py", "a") as file:
        file.write("LIMIT = 2\n")
    forget()
    assert fingerprint.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert fingerprint.main([]) == 0
    assert fingerprint.main(["--check"]) == 0
    assert not fingerprint.refresh(workspace)


def test_a_page_is_made_by_its_template_too(root: Path) -> None:
    templates = root / "rlhf/models/templates"
    templates.mkdir()
    (templates / "page.html.j2").write_text("<p>")
    before = fresh(root)
    (templates / "page.html.j2").write_text("<div>")
    assert fresh(root) != before


@pytest.mark.parametrize("launcher", ["accelerate launch --config_file c {}", "python -m torch.distributed.run {}"])
@pytest.mark.parametrize("program", ["gate.py", "--module tasks.gate", "-m tasks.gate"])
def test_a_launcher_may_stand_before_a_program(workspace: Path, launcher: str, program: str) -> None:
    graph = (workspace / "dvc.yaml").read_text()
    assert graph.count("python gate.py") == 1
    (workspace / "dvc.yaml").write_text(graph.replace("python gate.py", launcher.format(program)))
    own = fingerprint.ROOT / "tasks/gate.py" if "tasks" in program else workspace / "gate.py"
    assert fingerprint.fingerprints(workspace)["gate"] == fingerprint.of_program(own)


def test_a_program_that_is_not_there_is_named(workspace: Path) -> None:
    (workspace / "gate.py").unlink()
    with pytest.raises(ConfigError, match=r"`gate`.*gate\.py"):
        fingerprint.fingerprints(workspace)
