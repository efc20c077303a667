"""Read an answer: any string becomes the phrases of the world that it holds, what they claim, and how much is noise."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rlhf.world import lexicon
from rlhf.world.facts import KIND

TOKEN = re.compile(r"[a-z'-]+|[^\sa-z,\"'-]")
STOPS = frozenset(".!?:")
GLUE = frozenset(
    {"a", "an", "and", "are", "believe", "book", "can", "could", "cover", "days", "do", "for", "he", "here", "i", "if"}
    | {"in", "is", "it", "just", "of", "on", "or", "please", "review", "she", "should", "so", "sorry", "sure", "that"}
    | {"the", "then", "there", "they", "think", "this", "to", "too", "we", "with", "work", "would", "yes", "you"}
)
GLUE_RUN = 4  # more words of glue in a row say nothing
NAMED = 3  # an answer that names somebody more often repeats itself
MAY_REPEAT = frozenset({"number", "plus", "subject"})

Words = tuple[str, ...]
Phrase = tuple[Words, str, Any]  # words, kind, what it stands for
Chunk = tuple[str, Any, int]  # kind, what it stands for, number of words


@dataclass
class Reading:
    """What an answer says. `found` holds, by kind, what its phrases stand for, in order, each once."""

    words: int = 0
    noise: int = 0  # words that are no phrase of the world, stand where they mean nothing, or repeat
    filler: int = 0  # words of phrases that only take room
    courtesy: int = 0  # words of the first courtesy, which costs no room
    # subject (None: not named), attribute, value
    claims: list[tuple[str | None, str, str]] = field(default_factory=list)
    scenes: list[tuple[str, str]] = field(default_factory=list)  # who did something with whom, in a story
    loose: list[str] = field(default_factory=list)  # values that nothing is said about
    found: dict[str, list[Any]] = field(default_factory=dict)

    def has(self, kind: str) -> list[Any]:
        """What the phrases of one kind stand for."""
        return self.found.get(kind, [])

    @property
    def sense(self) -> float:
        """Share of the words that are no noise, 0..1; an empty answer has none."""
        return max(0.0, 1.0 - self.noise / self.words) if self.words else 0.0


def words_of(text: str) -> Words:
    """Lower-case words and the signs that are not commas or quotes."""
    return tuple(TOKEN.findall(text.lower()))


def bare_words(text: str) -> Words:
    """The words without the signs that end sentences."""
    return tuple(word for word in words_of(text) if word not in STOPS)


@cache
def phrases() -> dict[str, list[Phrase]]:
    """Every phrase of the world by its first word, the longest first. Where two are equal, the later kind counts."""
    table: dict[Words, tuple[str, Any]] = {}
    for kind, said in (*_names(), *_sayings()):
        table |= {bare_words(text): (kind, stands_for) for text, stands_for in said.items()}
    by_first: dict[str, list[Phrase]] = {}
    for words in sorted(table, key=len, reverse=True):
        by_first.setdefault(words[0], []).append((words, *table[words]))
    return by_first


def _names() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Phrases from which claims and scenes are made: kind, and what each text stands for."""
    yield "label", {label: label for label in lexicon.REVIEWS}
    yield "label", {f"{opening} {kind}": kind for kind in lexicon.ENTITIES for opening in ("a", "is a")}
    yield "value", {value: value for values in lexicon.VALUES.values() for value in values}
    yield "entity", {name: name for name in KIND}
    links: dict[str, tuple[str, ...]] = {}  # what stands before a value, and the attributes that it may tell
    for attribute, forms in lexicon.PREDICATES.items():
        for form in forms:
            link = form.partition(" {}")[0]
            links[link] = (*links.get(link, ()), attribute)
        links[f"the {attribute} of"] = links[f"the {attribute} is"] = (attribute,)
    yield "link", links
    yield "event", {event: event for event in lexicon.EVENTS}


def _sayings() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Phrases that say something on their own."""
    yield "number", {word: number for number, word in enumerate(lexicon.NUMBERS, start=1)}
    yield "plus", {"plus": "plus"}
    keyed = {"idea": lexicon.IDEAS, "reply": lexicon.MOODS, "step": lexicon.HOWTOS, "harm": lexicon.HARMS}
    for kind, by_key in keyed.items():
        yield kind, {option: (key, option) for key, options in by_key.items() for option in options}
    yield "opening", {opening: occasion for occasion, opening in lexicon.OCCASIONS.items()}
    yield "subject", {topic: topic for topic in lexicon.TOPICS}
    yield "belief", {belief: belief for belief in lexicon.BELIEFS}
    yield "courtesy", {saying: saying for saying in (*lexicon.COURTESIES, "I am sorry")}
    yield "insult", {saying: saying for saying in lexicon.INSULTS}
    yield "filler", {saying: saying for saying in lexicon.FILLERS}
    yield "refusal", {saying: saying for saying in lexicon.REFUSALS}
    yield "reason", {saying: saying for saying in lexicon.REASONS}


def read(text: str) -> Reading:
    """Read any string: longest phrases first, left to right, then what they say together."""
    words, reading, table = words_of(text), Reading(), phrases()
    sentences: list[list[Chunk]] = [[]]
    place = glue = 0
    while place < len(words):
        word = words[place]
        found = next((p for p in table.get(word, ()) if words[place : place + len(p[0])] == p[0]), None)
        if found:
            sentences[-1].append((found[1], found[2], len(found[0])))
            reading.words += len(found[0])
            place, glue = place + len(found[0]), 0
            continue
        place += 1
        if word in STOPS:
            sentences.append([])
            continue
        reading.words += 1
        glue = glue + 1 if word in GLUE else GLUE_RUN
        reading.noise += glue >= GLUE_RUN
    subject: str | None = None
    for sentence in sentences:
        subject = _state(sentence, subject, reading)
    _collect((chunk for sentence in sentences for chunk in sentence), reading)
    return reading


def _state(sentence: list[Chunk], subject: str | None, reading: Reading) -> str | None:
    """Join the subjects, links and values of a sentence to claims, and values and events to scenes. What joins nothing
    is noise. `subject` is whom the sentence before was about; returns whom this one is about."""
    attributes: tuple[str, ...] = ()  # that the last link may mean
    open_words = 0  # of a link that no value has followed yet, or of an event
    actor: str | None = None  # the last value that nothing was said about, who may do something next
    acting = False
    for kind, said, length in sentence:
        if kind == "link":
            reading.noise += open_words
            attributes, open_words = said, length
        elif kind == "event":
            reading.noise += open_words
            acting, attributes, open_words = actor is not None, (), length
        elif kind in ("value", "entity"):
            attribute = next((a for a in attributes if said in lexicon.VALUES[a]), None)
            if attribute:
                claim = (subject, attribute, said)
                reading.noise += length + open_words if claim in reading.claims else 0
                reading.claims.append(claim)
                open_words = 0
            elif kind == "entity":
                subject = said
            elif acting and actor is not None:
                reading.scenes.append((actor, said))
                actor, acting, open_words = said, False, 0
            else:
                actor = said
                reading.loose.append(said)
        elif kind == "label":  # "This is a positive review."
            open_words = 0
    reading.noise += open_words
    return subject


def _collect(chunks: Iterable[Chunk], reading: Reading) -> None:
    """Sort the phrases by kind, and count what is said again as noise."""
    seen: Counter[tuple[str, Any]] = Counter()
    for kind, said, length in chunks:
        if kind in ("link", "value", "event"):
            continue
        seen[kind, said] += 1
        if kind == "filler":
            reading.filler += length
        if kind == "courtesy" and not reading.courtesy:
            reading.courtesy = length
        allowed = NAMED if kind == "entity" else 1
        if seen[kind, said] > allowed and kind not in MAY_REPEAT:
            reading.noise += length
        elif seen[kind, said] == 1 or kind in MAY_REPEAT:
            reading.found.setdefault(kind, []).append(said)
