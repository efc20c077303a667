"""Where the files of a store on SQLite lie: in mlartifacts/ beside the database, wherever both are moved.

MLflow would keep an absolute path with each experiment, run and model. They get the address instead that they have
behind a server, `mlflow-artifacts:/...`: the workspace's server looks in its --artifacts-destination, and this process
in the same place.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = "mlflow-artifacts:/"
DIRECTORY = "mlartifacts"


def is_local(tracking_uri: str) -> bool:
    """Whether a store is a SQLite file."""
    return tracking_uri.startswith("sqlite:")


def serve_beside_database() -> None:
    """Have MLflow, in this process, find the files of a store on SQLite beside it; those of a server where it says."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    _artifact_repository_registry.register(urlsplit(ROOT).scheme, _repository)


def _repository(uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from sqlalchemy import make_url

    if not tracking_uri or not is_local(tracking_uri):
        return MlflowArtifactsRepository(uri, tracking_uri, registry_uri)
    beside = Path(make_url(tracking_uri).database or "").absolute().parent
    return LocalArtifactRepository((beside / DIRECTORY / urlsplit(uri).path.lstrip("/")).as_uri())
