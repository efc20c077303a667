"""The model that algorithms begin with."""

from pathlib import Path

import pytest

from rlhf.models.loading import save_model
from tests.algorithms.tiny import tiny_policy, tiny_tokenizer


@pytest.fixture(scope="session")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sft"
    save_model(tiny_policy(), tiny_tokenizer(), path, title="tiny", summary="random")
    return path
