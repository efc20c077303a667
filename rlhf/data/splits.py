"""Splits by the hash of the prompt: a new row never moves an old one, and no prompt is in two splits."""

from bisect import bisect_right

from rlhf.config.data import SplitShares

SPLITS = ("train", "validation", "test")


def split_of(digest: str, shares: SplitShares) -> str:
    """The split of a prompt with hash `digest` (hex): its first 52 bits, as a fraction of 1, fall into one share."""
    fraction = int(digest[:13], 16) / 2**52  # exact, and below 1
    return SPLITS[bisect_right((shares.train, 1.0 - shares.test), fraction)]
