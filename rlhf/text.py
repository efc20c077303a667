"""Text that people, models and data wrote, made safe to look at: on a terminal, on a page, inside Markdown."""

import html
import re
import unicodedata

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}  # controls, direction marks, zero-width, tags, private, separators
_MARKS = re.compile(r"[\\`*_\[\]|~]")


def printable(text: str) -> str:
    """`text` without what would steer a terminal: escapes, backspaces, reversed writing."""
    kept = "\n\t\u200c\u200d"  # the last two join letters and signs of some languages
    return "".join(char if char.isprintable() or char in kept else "\N{REPLACEMENT CHARACTER}" for char in text)


def visible(text: str) -> str:
    """`text` with every invisible character but line breaks and tabs as ⟨U+202E⟩, so that it cannot reorder a line."""
    return "".join(_shown(character) for character in text)


def markdown(text: str) -> str:
    """Markdown that shows `text`, visible, on one line, and is nothing else: no link, HTML, code or cell of a table."""
    return _MARKS.sub(r"\\\g<0>", html.escape(visible(" ".join(text.split())), quote=False))


def title(name: str) -> str:
    """How an algorithm is called in a heading: PPO, ACTOR-CRITIC."""
    return name.replace("_", "-").upper()


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in HIDDEN:
        return character
    return f"⟨U+{ord(character):04X}⟩"
