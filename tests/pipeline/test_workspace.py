"""params.yaml with other values for one run is as it was afterwards, whatever ended the run."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf.config import load_config
from rlhf.config.editing import set_params
from rlhf.errors import Busy, ConfigError, DataError
from rlhf.pipeline.workspace import LENT, hold_workspace, lent
from tests.conftest import ROOT

SETTINGS = ["align.seed=2", "align.algorithms=[ipo, kto]"]
KILLED = """
import os
from pathlib import Path
from rlhf.pipeline.workspace import hold_workspace, lent
with hold_workspace(Path.cwd()), lent(Path.cwd(), ["align.seed=2", "align.algorithms=[ipo, kto]"]):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def test_it_is_as_it_was_to_the_byte_when_the_run_ends(params: Path) -> None:
    before = params.read_bytes()
    with hold_workspace(params.parent), lent(params.parent, SETTINGS):
        align = load_config(params).align
        assert (align.seed, align.algorithms) == (2, ["ipo", "kto"])
    assert params.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "edit", "told"),
    [("align.sead=2", "", "sead"), ("align.algorithms=[pppo]", "", "pppo"), ("align.seed=2", "seed: x", "`seed`")],
)
def test_what_cannot_be_lent_holds_nobody_up(params: Path, asked: str, edit: str, told: str) -> None:
    whole = params.read_bytes()
    params.write_text(params.read_text().replace("seed: 0", edit or "seed: 0", 1))
    before = params.read_bytes()
    with pytest.raises(ConfigError, match=told), hold_workspace(params.parent), lent(params.parent, [asked]):
        pass
    assert params.read_bytes() == before
    params.write_bytes(whole)
    with hold_workspace(params.parent):
        assert params.read_bytes() == whole


def test_a_run_that_was_killed_has_it_set_back_by_the_next(params: Path) -> None:
    before = params.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=params.parent, env=environment).returncode == -9
    assert load_config(params).align.seed == 2
    with hold_workspace(params.parent):
        assert params.read_bytes() == before
    assert not (params.parent / LENT).exists()


@pytest.mark.parametrize("torn", ["", "{}", '{"before": "seed: 0"}', "[]"])
def test_a_damaged_note_of_what_was_lent_is_named(params: Path, torn: str) -> None:
    (params.parent / LENT).parent.mkdir()
    (params.parent / LENT).write_text(torn)
    with pytest.raises(DataError, match=r"lent\.json is damaged.* delete the file"), hold_workspace(params.parent):
        pass


def test_who_has_patience_waits_for_who_holds_it(tmp_path: Path) -> None:
    had = threading.Event()

    def wait() -> None:
        with hold_workspace(tmp_path, patience=60.0):
            had.set()

    other = threading.Thread(target=wait)
    with hold_workspace(tmp_path):
        other.start()
        with pytest.raises(Busy), hold_workspace(tmp_path):
            pass
        assert not had.wait(0.3)
    assert had.wait(60.0)
    other.join()


def test_what_is_edited_meanwhile_stays(params: Path) -> None:
    before = load_config(params)
    with lent(params.parent, SETTINGS):
        set_params(params, ["align.dpo.beta=0.7"])
    after = load_config(params)
    assert after.align.dpo.beta == 0.7
    assert (after.align.seed, after.align.algorithms) == (before.align.seed, before.align.algorithms)
