"""How an answer is dressed, counted from its text: what a judge may like beside what it says.

Headers, list items and bold spans of Markdown, outside of code, as Chatbot Arena counts them for its style control
(Li, Angelopoulos, Chiang 2024, https://lmsys.org/blog/2024-08-28-style-control/). Tokens are counted elsewhere.
"""

import re
from collections.abc import Sequence

import numpy as np

from rlhf.gate.statistics import Array

CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
ELEMENTS = (
    re.compile(r"^#{1,6}\s", re.MULTILINE),  # headers
    re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE),  # items of lists
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),  # bold
)


def style(text: str) -> list[int]:
    """How many headers, list items and bold spans an answer has."""
    outside = CODE.sub("", text)
    return [len(element.findall(outside)) for element in ELEMENTS]


def style_differences(answers: Sequence[str], others: Sequence[str]) -> Array:
    """(a - b) / (a + b) of each element of `style`, (N, 3), for the answers and the others to the same N prompts; zero
    where neither has any. It lies in [-1, 1] and changes its sign when the two are swapped."""
    ours, theirs = (np.array([style(text) for text in side], dtype=np.float64) for side in (answers, others))
    return (ours - theirs) / np.maximum(ours + theirs, 1.0)
