"""What shows that something was unpickled."""

from pathlib import Path
from typing import Any


class Canary:
    """Pickled, it makes a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
