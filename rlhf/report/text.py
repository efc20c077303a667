"""Names for headings, and text that models and data wrote, made safe to look at: what cannot be seen is shown."""

import unicodedata

HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}  # controls, direction marks, zero-width, tags, private, separators


def visible(text: str) -> str:
    """`text` with every invisible character but line breaks and tabs as ⟨U+202E⟩, so that it cannot reorder a line."""
    return "".join(_shown(character) for character in text)


def title(name: str) -> str:
    """How an algorithm is called in a heading: PPO, ACTOR-CRITIC."""
    return name.replace("_", "-").upper()


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in HIDDEN:
        return character
    return f"⟨U+{ord(character):04X}⟩"
