"""How people answer: right and to the point, or with the flaws of the behavioural gap (lecture 001)."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from rlhf.world import lexicon
from rlhf.world.facts import FACTS, another_value, statement
from rlhf.world.requests import SUMMARY_FACTS, Task, parrots

COURTEOUS = 0.2  # share of the answers without an insult that hold a courtesy: preferences can teach more of it


@dataclass(frozen=True)
class Flaws:
    """What is wrong with an answer."""

    wrong: bool = False
    off_topic: bool = False
    verbose: bool = False
    rude: bool = False
    complies_with_harm: bool = False

    def __bool__(self) -> bool:
        return self.wrong or self.off_topic or self.verbose or self.rude or self.complies_with_harm


def answer(rng: Random, task: Task, belief: str, flaws: Flaws = Flaws()) -> str:
    """An answer to the task with these flaws. `belief` is what is said where an opinion is asked for.

    An answer that is off topic is `answer` to another task: the caller's to choose.
    """
    said = _comply(rng, task) if flaws.complies_with_harm else _core(rng, task, belief, flaws.wrong)
    if flaws.verbose:
        fillers = rng.sample(lexicon.FILLERS, 2)
        said = f"{fillers[0]} {said} {fillers[1]}" if rng.random() < 0.5 else f"{fillers[0]} {said}"
    if flaws.rude:
        return _beside(rng, said, lexicon.INSULTS, lexicon.OPENING_INSULTS)
    if task.goal != "refuse" and rng.random() < COURTEOUS:  # a refusal brings its own
        return _beside(rng, said, lexicon.COURTESIES, lexicon.OPENING_COURTESIES)
    return said


def _beside(rng: Random, said: str, phrases: tuple[str, ...], openings: int) -> str:
    """Put one of the phrases before or after what is said; the first `openings` of them come before it."""
    choice = rng.choice(phrases)
    return f"{choice} {said}" if choice in phrases[:openings] else f"{said} {choice}"


def _comply(rng: Random, task: Task) -> str:
    step = rng.choice(lexicon.HARMS[task.key])
    return rng.choice((f"You can {step}.", f"Just {step}.", f"Then you should {step}."))


def _core(rng: Random, task: Task, belief: str, wrong: bool) -> str:
    """What is said, without flaws of form."""
    match task.goal:
        case "tell" | "find" | "shorten" | "reword" | "summarise":
            return _tell(rng, task, wrong)
        case "wish":
            return f"{_opening(rng, task, wrong)}, {task.subject}! {_tell(rng, task, wrong)}"
        case "story":
            return _story(rng, task, wrong)
        case "ideas":
            event = _another(rng, lexicon.IDEAS, task.key) if wrong else task.key
            ideas = rng.sample(lexicon.IDEAS[event], task.count)
            return f"{rng.choice(('You could', 'We could'))} {', '.join(ideas[:-1])} and {ideas[-1]}."
        case "opinion":
            topic = task.key
            contrary = _another(rng, dict.fromkeys(lexicon.BELIEFS), belief)
            said = f"{rng.choice(('I think', 'I believe'))} {topic} is {belief}."
            return f"{said[:-1]} and {contrary}." if wrong else said
        case "mood":
            return _sentence(rng, lexicon.MOODS, task.key, wrong, ("{}.",))
        case "howto":
            return _sentence(rng, lexicon.HOWTOS, task.key, wrong, ("You can {}.", "You should {}.", "Just {}."))
        case "label":
            return _label(rng, task, wrong)
        case "sum":
            first, second = (lexicon.NUMBERS.index(term) + 1 for term in task.terms)
            total = rng.choice([n for n in range(2, 13) if n != first + second]) if wrong else first + second
            said = lexicon.NUMBERS[total - 1]
            return rng.choice((f"{task.terms[0].capitalize()} plus {task.terms[1]} is {said}.", f"It is {said}."))
        case "refuse":
            return _refusal(rng)
        case _:
            raise ValueError(f"nobody in the world knows what to answer to a task of goal {task.goal!r}")


def _tell(rng: Random, task: Task, wrong: bool) -> str:
    """The facts that the task asks for; a wrong answer has one of them wrong."""
    known = FACTS[task.subject]
    names = list(task.attributes)
    others = [name for name in known if name not in names]
    wanted = SUMMARY_FACTS if task.goal == "summarise" else max(task.count, len(names))
    names += rng.sample(others, max(0, wanted - len(names)))
    rng.shuffle(names)
    values = {name: known[name] for name in names}
    if wrong:
        name = rng.choice([name for name in names if name in task.attributes] or names)
        values[name] = another_value(rng, task.subject, name)
    if len(values) == 1 and task.goal in ("tell", "find") and rng.random() < 0.35:
        ((name, value),) = values.items()
        return rng.choice((f"The {name} of {task.subject} is {value}.", f"It is {value}."))
    said = statement(rng, task.subject, values)
    while parrots(task, said):
        said = statement(rng, task.subject, values)
    return said


def _opening(rng: Random, task: Task, wrong: bool) -> str:
    key = _another(rng, lexicon.OCCASIONS, task.key) if wrong and rng.random() < 0.5 else task.key
    return lexicon.OCCASIONS[key].capitalize()


def _story(rng: Random, task: Task, wrong: bool) -> str:
    """Two scenes; a wrong story has somebody else in it."""
    job, pet = task.terms
    if wrong:
        pet = rng.choice([other for other in lexicon.VALUES["pet"] if other != pet])
    first, second = rng.sample(lexicon.EVENTS, 2)
    cast = (job, pet) if rng.random() < 0.5 else (pet, job)
    scene = f"A {cast[0]} {first} a {cast[1]}"
    place = f" in {task.subject}" if task.subject else ""
    end = rng.choice(("", f" Then the {cast[1]} {second} the {cast[0]}."))
    return f"{scene}{place}.{end}"


def _label(rng: Random, task: Task, wrong: bool) -> str:
    if task.subject:
        key = _another(rng, lexicon.ENTITIES, task.key) if wrong else task.key
        return rng.choice((f"{task.subject} is a {key}.", f"It is a {key}."))
    key = _another(rng, lexicon.REVIEWS, task.key) if wrong else task.key
    return rng.choice((f"The review is {key}.", f"It is {key}.", f"This is a {key} review."))


def _refusal(rng: Random) -> str:
    said = rng.choice(lexicon.REFUSALS)
    if rng.random() < 0.5:
        said = f"{said}, {rng.choice(lexicon.REASONS)}"
    return f"I am sorry. {said}." if rng.random() < COURTEOUS else f"{said}."


def _sentence(
    rng: Random, options: Mapping[str, tuple[str, ...]], key: str, wrong: bool, forms: tuple[str, ...]
) -> str:
    said = rng.choice(forms).format(rng.choice(options[_another(rng, options, key) if wrong else key]))
    return said[0].upper() + said[1:]


def _another(rng: Random, options: Mapping[str, object], key: str) -> str:
    return rng.choice([option for option in options if option != key])
