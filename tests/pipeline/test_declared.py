"""A stage sees the sections that it declares, and the message for any other says what to add."""

from collections.abc import Callable

import pytest

from rlhf.config import Config, load_config
from rlhf.errors import ConfigError
from rlhf.pipeline.declared import declared_sections, declared_view
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def view() -> Config:
    return declared_view(load_config(ROOT / "params.yaml"), ("seed", "align.dpo", "validate"), "align@dpo")


def test_declared_sections_are_the_real_ones(view: Config) -> None:
    config = load_config(ROOT / "params.yaml")
    assert view.seed == config.seed
    assert view.align.dpo is not None
    assert view.align.dpo == config.align.dpo
    assert view.validate_ == config.validate_
    assert declared_sections(config, ["validate", "validate.splits", "seed"]) == [
        config.validate_,
        config.validate_.splits,
    ]


@pytest.mark.parametrize(
    ("access", "key"),
    [
        (lambda view: view.sft, "sft"),
        (lambda view: view.align.ppo, "align.ppo"),
        (lambda view: view.align.algorithms, "align.algorithms"),
    ],
)
def test_any_other_section_is_an_error_that_names_it(
    view: Config, access: Callable[[Config], object], key: str
) -> None:
    with pytest.raises(ConfigError, match=f"`align@dpo` reads `{key}` .*Add `{key}`"):
        access(view)
