"""A judge behind a real server, and what it compares."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import load_config
from rlhf.config.gate import GateConfig
from rlhf.config.judges import Endpoint
from rlhf.gate.evidence import Evidence
from rlhf.judges.endpoint import EndpointJudge
from tests.conftest import ROOT
from tests.gate.conftest import made_evidence
from tests.judges.server import Server, serving

ENDPOINT: dict[str, Any] = {
    "kind": "endpoint",
    "url": "http://localhost:8000/v1",
    "model": "wise",
    "key": None,
    "max_tokens": 64,
    "max_bytes": 9999,
    "timeout": 5.0,
    "retries": 2,
    "wait": 0.1,
    "parallel": 4,
    "missed": 8,
    "budget": 100,
}


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback that says [[A]]."""
    with serving() as state:
        yield state


@pytest.fixture
def judge(server: Server, tmp_path: Path) -> Callable[..., EndpointJudge]:
    """A judge that asks the server, with some settings changed; replies are kept in one place."""

    def made(**changes: Any) -> EndpointJudge:
        settings = ENDPOINT | {"url": server.url, "wait": 0.001, "budget": 10_000} | changes
        return EndpointJudge(Endpoint(**settings), tmp_path / "kept", lambda done, total: None)

    return made


@pytest.fixture
def good() -> Evidence:
    """Evidence on 400 prompts about a policy that deserves promotion, with no champion to beat."""
    return made_evidence(champion=None)


@pytest.fixture(scope="session")
def limits() -> GateConfig:
    """The gate's section of params.yaml, with intervals of fewer resamples."""
    return load_config(ROOT / "params.yaml").gate.model_copy(update={"bootstrap": 300})
