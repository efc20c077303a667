"""Answers that are no answers: one that goes in circles, and one that says the prompt again."""

import re
from collections.abc import Sequence

RUN = 4  # neighbours that make a run: tokens that repeat by chance seldom do so four at a time

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no space between words: a letter is one, as in rlhf/data/words.py.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def repetition(ids: Sequence[int]) -> float:
    """Share of the runs of RUN tokens that stood before in the same answer, 0..1 (Welleck et al. 2020, seq-rep-4);
    0 of one too short to have a run."""
    runs = list(zip(*(ids[start:] for start in range(RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def copying(request: str, response: str) -> float:
    """Share of the answer's runs of RUN words that stand in the request, 0..1; 0 of one too short to have a run.

    Some copying is right, as where a text is to be shortened: compare it with another model's on the same prompts.
    """
    asked, said = set(_word_runs(request)), _word_runs(response)
    return sum(run in asked for run in said) / len(said) if said else 0.0


def _word_runs(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return list(zip(*(words[start:] for start in range(RUN)), strict=False))
