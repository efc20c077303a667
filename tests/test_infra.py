"""compose.yaml and the images: published on loopback, no password of their own, not root, no call home."""

import re

import yaml

from rlhf import telemetry
from tests.conftest import ROOT

INFRA = ROOT / "infra"


def test_the_services_are_closed_and_quiet() -> None:
    text = (INFRA / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    secrets = set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY|AUTH)\w*)", text))
    assert secrets == {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "PREFECT_AUTH"}
    assert set(re.findall(r"\$\{\w*(?:PASSWORD|KEY|AUTH)\w*(..)", text)) == {":?"}, "one that is empty stops it"
    given = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / ".env.example").read_text(), re.MULTILINE))
    assert [given[name] for name in ("POSTGRES_PASSWORD", "S3_SECRET_KEY", "PREFECT_AUTH")] == ["", "", ""]
    for name in ("prefect", "mlflow", "worker", "gpu-worker"):
        assert telemetry.OFF.items() <= compose["services"][name]["environment"].items()


def test_no_image_runs_as_root() -> None:
    images = list((INFRA / "images").glob("*.Dockerfile"))
    users = {image.stem: re.findall(r"^USER (\w+)$", image.read_text(), re.MULTILINE) for image in images}
    assert users == {name: [{"worker": "rlhf"}.get(name, name)] for name in ("worker", "prefect", "mlflow")}
