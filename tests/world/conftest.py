from pathlib import Path
from typing import Any

import pytest

from rlhf.config import load_config
from rlhf.config.world import WorldConfig
from rlhf.world import World

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="session")
def config() -> WorldConfig:
    return load_config(PARAMS).world


@pytest.fixture(scope="session")
def world(config: WorldConfig) -> World:
    return World(config, seed=0)


@pytest.fixture(scope="session")
def tables(world: World) -> dict[str, list[dict[str, Any]]]:
    return world.tables()
