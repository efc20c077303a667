"""What memory allows a stage, found by running out of it: less at once, in a fresh process, from the last checkpoint.

    2, 4, 8, ...   parts into which what goes through a model at once is cut, until that is one sequence
    then           layers compute again backward what they would else keep (rlhf/models/recomputation.py)

The loop divides by the count of a whole step, so the result is the same to rounding. What memory allows is a fact of a
machine: it lies beside the checkpoints, and no stage key depends on it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from rlhf import durable
from rlhf.config.section import AT_ONCE, Section
from rlhf.config.training import LoopConfig

FILE = "memory.json"  # in a stage's work directory
S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of what params.yaml asks for goes through a model at once."""

    parts: int = 1
    gradient_checkpointing: bool = False

    @classmethod
    def read(cls, work: Path) -> Self:
        """What was found before; the whole where memory never ran out, or the file is damaged."""
        try:
            found = cls(**json.loads((work / FILE).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()
        return found if isinstance(found.parts, int) and found.parts > 0 else cls()

    def write(self, work: Path) -> None:
        """Keep it for the next process."""
        own = work / f"{FILE}.{os.getpid()}"  # under `accelerate launch` several processes may come here
        own.write_text(json.dumps(asdict(self)))
        durable.publish(own, work / FILE)

    def __str__(self) -> str:
        """What is done for want of memory; nothing where there is enough."""
        cut = [f"micro-batches in {self.parts} parts"] if self.parts > 1 else []
        return " and ".join(cut + ["gradient checkpointing"] * self.gradient_checkpointing)

    def fit(self, section: S) -> S:
        """`section` with every size that is marked AT_ONCE cut into `parts`, in the sections inside it too."""
        changes: dict[str, object] = {name: self.fit(value) for name, value in section if isinstance(value, Section)}
        changes |= {name: max(1, size // self.parts) for name, size in _at_once(section)}
        if isinstance(section, LoopConfig):
            changes["gradient_checkpointing"] = section.gradient_checkpointing or self.gradient_checkpointing
        return section.model_copy(update=changes)

    def less(self, sections: Iterable[Section]) -> "Allowance | None":
        """The next smaller one, for a stage that reads `sections` of params.yaml; None when there is none."""
        read = [inner for section in sections for inner in _with_inner(section)]
        if any(size // self.parts > 1 for section in read for _, size in _at_once(section)):
            return replace(self, parts=2 * self.parts)
        loops = [section for section in read if isinstance(section, LoopConfig)]
        if self.gradient_checkpointing or all(loop.gradient_checkpointing for loop in loops):
            return None
        return replace(self, gradient_checkpointing=True)


def _at_once(section: Section) -> Iterator[tuple[str, int]]:
    fields = type(section).model_fields.items()
    return ((name, getattr(section, name)) for name, field in fields if AT_ONCE in field.metadata)


def _with_inner(section: Section) -> Iterator[Section]:
    yield section
    for _, value in section:
        if isinstance(value, Section):
            yield from _with_inner(value)
