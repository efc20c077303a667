"""Splits by the hash of how a conversation opens: a new row never moves an old one, and no prompt is in two splits,
nor are two that go on from the same question."""

from bisect import bisect_right

from rlhf.config.data import SplitShares

SPLITS = ("train", "validation", "test")
REFEREE = "referee"  # of judgements: taken from train, for the one reward model that nothing is aligned with


def split_of(digest: str, shares: SplitShares) -> str:
    """The split of what opens with hash `digest` (hex): its first 52 bits, as a fraction of 1, fall into one share."""
    return SPLITS[bisect_right((shares.train, 1.0 - shares.test), _fraction(digest[:13]))]


def is_for_referee(digest: str, share: float) -> bool:
    """Whether the judgements of a train prompt with hash `digest` (hex) are in the referee's share: by its last 52
    bits, which know nothing of the split."""
    return _fraction(digest[-13:]) < share


def _fraction(digits: str) -> float:
    """13 hex digits as a fraction of 1: exact, and below 1."""
    return int(digits, 16) / 2**52
