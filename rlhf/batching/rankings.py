"""Rows of the table `rankings` as token ids."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.batching.batches import RankedTurns
from rlhf.batching.encoding import Turn, encode_prompt, encode_response, fits


def encode_rankings(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], limits: Any
) -> tuple[list[RankedTurns], int]:
    """Rankings whose every answer fits `limits`, and how many answers were too long.

    An answer that is too long leaves its ranking; a ranking with fewer than two answers left is left out.
    """
    groups, too_long = [], 0
    for row in rows:
        prompt = encode_prompt(tokenizer, row["prompt"])
        turns = [Turn(prompt, encode_response(tokenizer, response)) for response in row["responses"]]
        kept = [(turn, rank) for turn, rank in zip(turns, row["ranks"], strict=True) if fits(turn, limits)]
        too_long += len(turns) - len(kept)
        if len(kept) >= 2:
            groups.append(RankedTurns(tuple(t for t, _ in kept), tuple(int(r) for _, r in kept)))
    return groups, too_long
