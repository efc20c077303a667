"""The examples' sources are read as they stand: their rows are good, and what each needs is declared."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.config import parse_config
from rlhf.data.quarantine import check
from rlhf.data.sources import read_source
from tests.data.frames import DATA, frame

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "rlhf/examples"


def overlaid(params: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sections key by key, anything else whole."""
    both = {key: overlaid(params[key], value) for key, value in changes.items() if isinstance(value, dict) and value}
    return params | changes | both


def example(name: str, data: Path) -> tuple[dict[str, Any], Any]:
    """The overlay, and the configuration that it makes of params.yaml."""
    overlay = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text().replace("{data}", str(data)))
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    return overlay, parse_config(overlaid(params, overlay["params"]), name)


@pytest.mark.parametrize("name", ["hh-harmless", "oasst", "files"])
def test_an_example_is_whole(name: str) -> None:
    overlay, config = example(name, Path("/data"))
    assert overlay.keys() == {"description", "deps", "params"}
    assert overlay["deps"] == [f"${{collect.sources[{place}].path}}" for place in range(len(config.collect.sources))]
    assert config.label.judge == "none"
    assert config.evaluate.judge.kind == "reward"


def test_the_files_that_users_start_from_have_no_bad_row(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sources").symlink_to(EXAMPLES / "files")
    _, config = example("files", tmp_path)
    for source in config.collect.sources:
        collected = read_source(source, tmp_path, config.collect.limits)
        kept, bad = check(source.table, frame(collected, source.table), config.validate_.max_characters)
        assert (len(kept), len(bad)) == (12, 0), bad


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there; RLHF_DATA names another folder")
@pytest.mark.parametrize("name", ["hh-harmless", "oasst"])
def test_the_limit_of_an_example_fits_its_data(name: str) -> None:
    _, config = example(name, DATA)
    tables: dict[str, list[int]] = {}
    for source in config.collect.sources:
        collected = read_source(source, DATA, config.collect.limits)
        for table in collected.tables:
            kept, bad = check(table, frame(collected, table), config.validate_.max_characters)
            counts = tables.setdefault(table, [0, 0])
            counts[0] += len(kept)
            counts[1] += len(bad)
    assert all(bad / (kept + bad) <= config.validate_.max_quarantined for kept, bad in tables.values()), tables
