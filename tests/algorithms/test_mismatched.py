"""KTO's mismatched pairs: each prompt with an answer to another."""

import pytest

from rlhf.algorithms.kto import Judged, mismatched
from rlhf.batching.encoding import Turn


@pytest.mark.parametrize("rows", [[4, 4], [5, 1, 3, 2], [1] * 9, [2, 2, 2]])
def test_no_answer_stays_with_its_prompt(rows: list[int]) -> None:
    """While no prompt has more than half of the rows; every answer is used once."""
    judged = [Judged(Turn([9, prompt], [prompt, row]), True) for prompt, many in enumerate(rows) for row in range(many)]

    def paired(seed: int) -> list[tuple[list[int], list[int]]]:
        return [(list(other.prompt), list(other.response)) for other in mismatched(judged, seed)]

    others = paired(1)
    assert [prompt for prompt, _ in others] == [list(row.turn.prompt) for row in judged]
    assert sorted(answer for _, answer in others) == sorted(list(row.turn.response) for row in judged)
    assert all(prompt[1] != answer[0] for prompt, answer in others)
    assert others == paired(1)
    assert any(others != paired(seed) for seed in (2, 3, 4))
