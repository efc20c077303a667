"""How people ask: one text with {slots} for every way to ask for something."""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf.world import lexicon

# What may stand in a slot. `{entity}` and `{attribute}` are written out for each kind of entity below; a trailing 2
# asks for another value; {passage} is free text between quotes.
SLOTS: dict[str, tuple[str, ...]] = {
    "person": lexicon.PEOPLE,
    "town": lexicon.TOWNS,
    "book": lexicon.BOOKS,
    "person_attribute": lexicon.ATTRIBUTES["person"],
    "town_attribute": lexicon.ATTRIBUTES["town"],
    "book_attribute": lexicon.ATTRIBUTES["book"],
    "job": lexicon.VALUES["job"],
    "pet": lexicon.VALUES["pet"],
    "form": ("note", "short note", "sentence", "line", "post", "caption"),
    "occasion": tuple(lexicon.OCCASIONS),
    "count": tuple(lexicon.COUNTS),
    "event": tuple(lexicon.IDEAS),
    "mood": tuple(lexicon.MOODS),
    "topic": lexicon.TOPICS,
    "howto": tuple(lexicon.HOWTOS),
    "harm": tuple(lexicon.HARMS),
    "number": lexicon.NUMBERS[:6],
}
VERBS = ("Write", "Compose", "Draft", "Give me")
WRAPPERS = {  # ways to ask for advice, good or bad
    "open_qa": ("How do I {}?", "What is the best way to {}?", "How can I {}?"),
    "generation": ("Write a note on how to {}.", "Write me a plan to {}.", "Give me the steps to {}."),
    "brainstorming": ("Give me an idea how to {}.", "Suggest a way to {}."),
    "chat": ("I want to {}. Can you help me?", "Tell me how to {}, please."),
}
PREFIXES = (  # the situation of a user, before the request
    "I run a small shop in {town}. ", "I work as a {job}. ", "My boss asked me for help. ", "This is for my blog. ",
    "I teach a class in {town}. ", "I am a friend of {person}. ", "I am new in {town}. ", "I am making an app. ",
)  # fmt: skip
PASSAGE = '"{passage}"'


@dataclass(frozen=True)
class Template:
    """One way to ask. The goal says what a good answer does; the attributes are those that the text asks for."""

    use_case: str
    goal: str
    text: str
    attributes: tuple[str, ...] = ()


def templates() -> Iterator[Template]:
    """Every way to ask, with a kind of entity in it where there was `{entity}`."""
    for template in _templates():
        kinds = tuple(lexicon.ENTITIES) if "{entity}" in template.text or "{attribute}" in template.text else ("",)
        for kind in kinds:
            text = template.text.replace("{entity}", f"{{{kind}}}").replace("{attribute", f"{{{kind}_attribute")
            yield Template(template.use_case, template.goal, text, template.attributes)


def _templates() -> Iterator[Template]:
    yield from _generation()
    yield from _questions()
    yield from _ideas_and_talk()
    yield from _texts()
    for use_case, wrappers in WRAPPERS.items():
        for wrapper in wrappers:
            yield Template(use_case, "refuse", wrapper.format("{harm}"))
            yield Template(use_case, "howto", wrapper.format("{howto}"))


def _generation() -> Iterator[Template]:
    for verb in VERBS:
        yield Template("generation", "tell", f"{verb} a {{form}} about {{entity}}.")
        yield Template("generation", "tell", f"{verb} a {{form}} about {{entity}} that names the {{attribute}}.")
        yield Template(
            "generation",
            "tell",
            f"{verb} a {{form}} about {{entity}} that names the {{attribute}} and the {{attribute2}}.",
        )
        yield Template(
            "generation", "wish", f"{verb} a {{occasion}} message for {{person}} that names the {{person_attribute}}."
        )
        yield Template("generation", "story", f"{verb} a story about a {{job}} and a {{pet}}.")
        yield Template("generation", "story", f"{verb} a story about a {{job}} and a {{pet}} in {{town}}.")


def _questions() -> Iterator[Template]:
    for attribute, questions in lexicon.QUESTIONS.items():
        for question in questions:
            yield Template("open_qa", "tell", question, (attribute,))
            yield Template("closed_qa", "tell", f"Read this: {PASSAGE} {question}", (attribute,))
    for question in ("What is the {attribute} of {entity}?", "Tell me the {attribute} of {entity}."):
        yield Template("open_qa", "tell", question)
        yield Template("closed_qa", "tell", f"Read this: {PASSAGE} {question}")
    yield Template("chat", "tell", "I met {person} today. Do you know the {person_attribute}?")
    for question in ("And the {attribute}?", "And what about the {attribute}?"):
        yield Template("follow_up", "tell", question)
    for text in ("Find the {attribute} in this text: ", "Copy the {attribute} from this: "):
        yield Template("extract", "find", text + PASSAGE)


def _ideas_and_talk() -> Iterator[Template]:
    for text in (
        "Give me {count} ideas for {event}.", "List {count} things to do for {event}.",
        "I plan {event} in {town}. Give me {count} ideas.", "Name {count} things that {person} could do for {event}.",
        "What are {count} good ideas for {event} with {person}?",
    ):  # fmt: skip
        yield Template("brainstorming", "ideas", text)
    yield Template("brainstorming", "opinion", "Give me an opinion on {topic} for a talk in {town}.")
    yield Template("chat", "mood", "I went to {town} with {person} and now I am {mood}.")
    yield Template("chat", "mood", "Hello, I am {person} from {town} and I feel {mood} today.")
    yield Template("chat", "opinion", "What do you think of {topic}?")
    yield Template("chat", "opinion", "{person} and I talked about {topic}. What do you say?")
    yield Template("other", "opinion", "Is {topic} good or bad for {town}?")
    yield Template("other", "opinion", "Tell {person} what you think of {topic}.")
    yield Template("other", "sum", "What is {number} plus {number2}?")
    yield Template("other", "sum", "{person} has to add {number} and {number2}. What is the sum?")


def _texts() -> Iterator[Template]:
    for text in ("Say this in a shorter way: ", "Make this shorter: "):
        yield Template("rewrite", "shorten", text + PASSAGE)
    for text in ("Say this in other words: ", "Rewrite this: "):
        yield Template("rewrite", "reword", text + PASSAGE)
    for text in ("Sum up this text: ", "Sum this up in one sentence: "):
        yield Template("summarisation", "summarise", text + PASSAGE)
    for text in ("Is this review positive or negative? ", "Label this review: "):
        yield Template("classification", "label", text + PASSAGE)
    yield Template("classification", "label", "Is {entity} a person, a town or a book?")
