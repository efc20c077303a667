"""Requests: drawn from the templates, and understood again from their text alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random

from rlhf.world import lexicon
from rlhf.world.facts import FACTS, KIND, statement
from rlhf.world.reading import Words, bare_words, read
from rlhf.world.templates import PASSAGE, PREFIXES, SLOTS, Template, templates

Slots = dict[str, str]
ECHO = 6  # an answer that repeats so many words of its instruction in a row parrots it
SHORTEST_ECHO = 3  # shorter parts of an instruction may be said again
BUDGETS = {  # words that a good answer needs at most, its first courtesy not counted
    "tell": 9, "wish": 14, "story": 22, "ideas": 8, "opinion": 9, "mood": 9, "howto": 11, "refuse": 18,
    "label": 8, "sum": 7, "shorten": 12, "reword": 10, "summarise": 15, "find": 8,
}  # fmt: skip
PASSAGE_FACTS = {"shorten": 1, "reword": 1, "summarise": 3, "find": 2, "tell": 2}
SUMMARY_FACTS = 2


@dataclass(frozen=True)
class Task:
    """What a request asks for: all that is needed to answer it and to judge an answer."""

    goal: str  # of its template, or "unknown"
    budget: int = 0  # words
    subject: str = ""
    attributes: tuple[str, ...] = ()  # that the answer must tell
    count: int = 0  # facts or ideas that it must hold
    key: str = ""  # event, mood, act, topic, label or occasion
    terms: tuple[str, ...] = ()  # who is in a story; the numbers of a sum
    shortens: bool = False  # the answer must leave something out
    echoes: frozenset[Words] = frozenset()  # runs of words that an answer must not repeat


UNKNOWN = Task("unknown")


def draw(rng: Random, template: Template, subject: str = "") -> str:
    """An instruction that follows the template, about `subject` if one is given."""
    slots: Slots = {}
    for name in slot_names(template.text):
        base = name.rstrip("2")
        if name != "passage":
            slots[name] = rng.choice([value for value in SLOTS[base] if value != slots.get(base)])
    if subject and KIND[subject] in slots:
        slots[KIND[subject]] = subject
    if PASSAGE in template.text:
        slots["passage"] = _passage(rng, template, slots)
    if "harm" in slots:
        slots["harm"] = slots["harm"].format(person=rng.choice(lexicon.PEOPLE))
    return template.text.format(**slots)


def _passage(rng: Random, template: Template, slots: Slots) -> str:
    """The text that a request quotes: a review, or facts about one entity, the one that is asked for among them."""
    if template.goal == "label":
        return _review(rng)
    attribute = next((slots[name] for name in slots if name.endswith("_attribute")), *(template.attributes or ("",)))
    kinds = [kind for kind in KIND_ORDER if not attribute or attribute in lexicon.ATTRIBUTES[kind]]
    entity = next((slots[kind] for kind in kinds if kind in slots), "") or rng.choice(
        lexicon.ENTITIES[rng.choice(kinds)]
    )
    known = list(FACTS[entity])
    names = rng.sample(known, PASSAGE_FACTS[template.goal])
    if attribute and attribute not in names:
        names[0] = attribute
    said = statement(rng, entity, {name: FACTS[entity][name] for name in names})
    return f"{rng.choice(lexicon.FILLERS)} {said}" if template.goal in ("shorten", "summarise") else said


KIND_ORDER = tuple(lexicon.ENTITIES)


def _review(rng: Random) -> str:
    words = lexicon.REVIEWS[rng.choice(tuple(lexicon.REVIEWS))]
    first, second = rng.sample(lexicon.REVIEWED, 2)
    one, two = rng.sample(words, 2)
    return f"The {first} was {one} and the {second} was {two}."


def slot_names(text: str) -> list[str]:
    """The names of a text's {slots}, in order."""
    return re.findall(r"{(\w+)}", text)


@cache
def all_templates() -> tuple[Template, ...]:
    """Every template, once."""
    return tuple(dict.fromkeys(templates()))


def _pattern(text: str) -> str:
    """A regular expression with a group for every slot of a template."""
    parts = re.split(r"({\w+})", text)
    return "".join(_group(part[1:-1]) if part.startswith("{") else re.escape(part) for part in parts)


def _group(slot: str) -> str:
    if slot == "passage":
        return r'(?P<passage>[^"]+)'
    values = (re.escape(value).replace(r"\{person\}", _any(lexicon.PEOPLE)) for value in SLOTS[slot.rstrip("2")])
    return f"(?P<{slot}>{'|'.join(values)})"


def _any(values: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, values))})"


@cache
def _patterns() -> dict[str, list[tuple[re.Pattern[str], Template]]]:
    """Compiled templates by their first word; those that open with a slot under ""."""
    table: dict[str, list[tuple[re.Pattern[str], Template]]] = {}
    for template in all_templates():
        first = template.text.split()[0]
        key = "" if "{" in first else first
        table.setdefault(key, []).append((re.compile(_pattern(template.text)), template))
    return table


@cache
def _prefix() -> re.Pattern[str]:
    texts = (re.sub(r"{(\w+)}", lambda slot: _any(SLOTS[slot[1]]), prefix) for prefix in PREFIXES)
    return re.compile("|".join(texts))


def understand(prompt: Iterable[Mapping[str, str]]) -> Task:
    """What a prompt (messages with role and content) asks for; UNKNOWN for one that nobody of the world would write."""
    said = [message["content"] for message in prompt if message["role"] != "system"]
    return _understand(tuple(said)) if said else UNKNOWN


@lru_cache(maxsize=65536)
def _understand(said: tuple[str, ...]) -> Task:
    *earlier, last = said
    instruction = last.rpartition("Q: ")[2].removesuffix("\nA:")
    if prefix := _prefix().match(instruction):
        instruction = instruction[prefix.end() :]
    found = _match(instruction)
    return _task(*found, instruction, tuple(earlier)) if found else UNKNOWN


def _match(instruction: str) -> tuple[Template, Slots] | None:
    first = instruction.split(" ", 1)[0]
    for pattern, template in (*_patterns().get(first, ()), *_patterns()[""]):
        if match := pattern.fullmatch(instruction):
            return template, match.groupdict()
    return None


def _task(template: Template, slots: Slots, instruction: str, earlier: tuple[str, ...]) -> Task:
    """The task behind a template and what fills its slots."""
    goal, passage = template.goal, slots.get("passage", "")
    about = read(passage)
    attributes = template.attributes + tuple(value for name, value in slots.items() if "attribute" in name)
    subject = _subject(template, slots, about.has("entity"), earlier)
    count, budget = len(attributes), BUDGETS[goal]
    if goal == "tell" and template.use_case == "generation":
        count, budget = 2, 15
    elif goal in ("shorten", "reword"):
        attributes = tuple(attribute for _, attribute, _ in about.claims)
        count = len(attributes)
    elif goal == "summarise":
        count = SUMMARY_FACTS
    elif goal == "ideas":
        count = lexicon.COUNTS[slots["count"]]
        budget += 5 * count
    return Task(
        goal=goal,
        budget=budget,
        subject=subject,
        attributes=attributes,
        count=count,
        key=_key(goal, slots, passage),
        terms=tuple(slots[name] for name in ("job", "pet", "number", "number2") if name in slots),
        shortens=goal in ("shorten", "summarise"),
        echoes=_echoes(instruction, passage, quoted=goal == "reword"),
    )


def _subject(template: Template, slots: Slots, quoted: list[object], earlier: tuple[str, ...]) -> str:
    """Whom the request is about: named in it, in the text it quotes, or last named before it."""
    if template.use_case == "follow_up":
        kind = next(kind for kind in KIND_ORDER if f"{kind}_attribute" in slots)
        named = [name for text in reversed(earlier) for name in read(text).has("entity") if KIND[str(name)] == kind]
        return str(named[0]) if named else ""
    named = [slots[kind] for kind in KIND_ORDER if kind in slots] if template.goal in ("tell", "wish", "label") else []
    return str((named or quoted or [""])[0])


def _key(goal: str, slots: Slots, passage: str) -> str:
    if goal == "label":
        return _label(slots, passage)
    if goal == "refuse":
        return next(act for act in lexicon.HARMS if slots["harm"].startswith(act.partition("{")[0]))
    return next((slots[name] for name in ("event", "mood", "howto", "topic", "occasion") if name in slots), "")


def _label(slots: Slots, passage: str) -> str:
    kind = next((kind for kind in KIND_ORDER if kind in slots), "")
    words = set(bare_words(passage))
    return kind or max(lexicon.REVIEWS, key=lambda label: len(words & set(lexicon.REVIEWS[label])))


def _echoes(instruction: str, passage: str, quoted: bool) -> frozenset[Words]:
    """Runs of ECHO words of the instruction around its passage, and of the passage if it must not be `quoted`."""
    parts = [*(instruction.split(passage) if passage else [instruction]), *([passage] if quoted else [])]
    said = [words for words in map(bare_words, parts) if len(words) >= SHORTEST_ECHO]
    return frozenset(words[start : start + ECHO] for words in said for start in range(max(1, len(words) - ECHO + 1)))


def parrots(task: Task, response: str) -> bool:
    """Whether the response repeats a run of words that it must not."""
    words = bare_words(response)
    sizes = {len(run) for run in task.echoes}
    return any(words[start : start + size] in task.echoes for size in sizes for start in range(len(words) - size + 1))
