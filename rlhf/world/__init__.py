"""The small simulated world in which the truth is known (docs/world.md)."""

from rlhf.world.world import World

__all__ = ["World"]
