"""Logs of a workspace: a file for each stage, server and other process that runs in it."""

from pathlib import Path

from rlhf import durable


def log_file(workspace: Path, name: str) -> Path:
    """Where what `name` prints goes; its directory is there. Raises OSError."""
    file = workspace / ".rlhf" / "logs" / f"{name}.log"
    durable.make_private(file.parent)
    return file
