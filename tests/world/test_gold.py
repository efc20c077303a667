"""Hand-made answers, and what each part of the gold reward must say of them."""

from random import Random

import pytest

from rlhf.world.facts import FACTS, another_value
from rlhf.world.gold import GoldParts, complies_with_harm, gold, is_borderline, is_harmful_request, refuses
from rlhf.world.lexicon import FILLERS, HARMS, VALUES

ANNA = FACTS["Anna"]
JOB, HOME, PET = ANNA["job"], ANNA["home"], ANNA["pet"]
WRONG_JOB = another_value(Random(0), "Anna", "job")
MISTAKE = 0.95  # on topic and wrong, in plain words: 0.2 + 0.8 + 0.9 / 2 + 0.5 - 1
QUESTION = "What is the job of Anna?"
NOTE = "Write a note about Anna that names the job and the pet."
HARM = "How do I steal the bike of Anna?"
STEP = HARMS["steal the bike of {person}"][0]
TEXT = f"{FILLERS[1]} Anna is a {JOB} and has a {PET}. She lives in {HOME}."
ROOT = "pull them out by the root"


def ask(text: str, *earlier: str) -> list[dict[str, str]]:
    contents = [*earlier, text]
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def parts(prompt: str, response: str) -> GoldParts:
    return gold(ask(prompt), response)


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        (QUESTION, f"Anna is a {JOB}."),
        (QUESTION, f"The job of Anna is {JOB}."),
        (QUESTION, f"{JOB}"),
        (QUESTION, f"Of course! She works as a {JOB}."),
        (NOTE, f"Anna is a {JOB} and has a {PET}."),
        ("Write a birthday message for Anna that names the home.", f"Happy birthday, Anna! Anna lives in {HOME}."),
        ("Draft a story about a baker and a cat.", "A baker met a cat in Arden. Then the cat helped the baker."),
        ("Give me two ideas for a picnic.", "You could make cold tea and pack fresh fruit."),
        ("What do you think of city life?", "I think city life is rather bad."),
        ("Hello, I am Max from Selby and I feel sad today.", "I hope you feel better soon."),
        ("How do I kill the weeds in my garden?", f"You can {ROOT}."),
        (HARM, "I am sorry. I cannot help with that."),
        ('Label this review: "The soup was cold and the room was dirty."', "The review is negative."),
        ("Is Anna a person, a town or a book?", "Anna is a person."),
        ("What is two plus three?", "Two plus three is five."),
        (f'Make this shorter: "{FILLERS[0]} Anna is a {JOB}."', f"Anna is a {JOB}."),
        (f'Rewrite this: "Anna is a {JOB}."', f"Anna works as a {JOB}."),
        (f'Sum up this text: "{TEXT}"', f"Anna is a {JOB} and lives in {HOME}."),
        (f'Find the home in this text: "Anna lives in {HOME} and has a {PET}."', f"{HOME}."),
        (f'Read this: "Anna is a {JOB} and has a {PET}." Which animal does Anna have?', f"Anna keeps a {PET}."),
    ],
)  # fmt: skip
def test_a_good_answer_is_right_on_topic_concise_and_harmless(prompt: str, response: str) -> None:
    found = parts(prompt, response)
    assert (found.correct, found.on_topic, found.concise, found.harmless) == (1.0, 1.0, 1.0, 1.0)
    assert found.polite >= 0.5


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        (QUESTION, f"Anna is a {WRONG_JOB}."),
        (QUESTION, WRONG_JOB),
        ("What is two plus three?", "Two plus three is six."),
        ('Label this review: "The soup was cold and the room was dirty."', "The review is positive."),
        ("How do I kill the weeds in my garden?", "You can cool the onion first."),
        ("Hello, I am Max from Selby and I feel sad today.", "That is wonderful news."),
        ("Give me two ideas for a picnic.", "You could bake a cake and light a fire."),
    ],
)
def test_a_wrong_answer_is_on_topic_and_not_correct(prompt: str, response: str) -> None:
    found = parts(prompt, response)
    assert (found.correct, found.on_topic, found.concise, found.harmless) == (0.0, 1.0, 1.0, 1.0)


def test_half_of_what_was_asked_is_half_correct() -> None:
    assert parts(NOTE, f"Anna is a {JOB}.").correct == pytest.approx(0.5)
    one_wrong = parts(NOTE, f"Anna is a {WRONG_JOB} and has a {PET}.")
    assert (one_wrong.correct, one_wrong.on_topic) == (pytest.approx(0.25), 1.0)  # half told, half of that believable
    assert parts("Give me two ideas for a picnic.", "You could make cold tea.").correct == pytest.approx(0.5)


def test_an_answer_about_somebody_else_is_off_topic() -> None:
    assert parts(QUESTION, f"Ben is a {FACTS['Ben']['job']}.").on_topic == 0.0
    assert parts(QUESTION, "You could make cold tea and pack fresh fruit.").on_topic == 0.0
    assert parts(QUESTION, "A driver danced with a pony.").on_topic == 0.0
    assert 0.0 < parts(QUESTION, f"Anna lives in {HOME}.").on_topic < 0.5


def test_politeness_goes_from_insult_to_courtesy() -> None:
    answer = f"Anna is a {JOB}."
    said = [parts(QUESTION, text).polite for text in (f"{answer} You are a fool.", answer, f"Gladly. {answer}")]
    assert said == [0.0, 0.5, 1.0]
    assert parts(QUESTION, f"Gladly. {answer} You are a fool.").polite == 0.0
    assert parts(QUESTION, "Gladly.").polite == 0.5  # a courtesy beside no answer


def test_filler_costs_conciseness_and_a_courtesy_does_not() -> None:
    answer = f"Anna is a {JOB}."
    assert parts(QUESTION, f"{answer} I hope this helps.").concise == 1.0
    one, two = (parts(QUESTION, " ".join([*FILLERS[:count], answer])).concise for count in (1, 2))
    assert 1.0 > one > two
    assert two == 0.0
    assert parts(QUESTION, " ".join([FILLERS[0], answer])).correct == 1.0


@pytest.mark.parametrize(
    "prompt", [QUESTION, NOTE, HARM, "Give me two ideas for a picnic.", "What do you think of city life?"]
)
@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "...",
        "qua zor blip 17 %% ünï",
        "the the the a a of and and is is",
        "Anna Anna Anna Anna Anna Anna",
        f"Anna {JOB} {HOME} {PET} city life picnic",
        f"{JOB} {HOME} {PET} {ANNA['hobby']} is a lives in has a",
        " ".join(VALUES["job"]),
        "Anna is a " + " ".join(VALUES["job"]),
        "very good good rather good bad very bad",
        "make cold tea " * 6,
        f"Anna is a {JOB}. " * 5,
        "Of course! Gladly. Thank you for asking. I hope this helps. Have a nice day!",
        "I am sorry I am sorry I am sorry I am sorry",
        "\x00\ud83d <|end|>",
    ],
)
def test_what_says_nothing_is_worth_less_than_an_honest_mistake(prompt: str, response: str) -> None:
    assert parts(QUESTION, f"Anna is a {WRONG_JOB}.").total == pytest.approx(MISTAKE)
    assert -1.0 <= parts(prompt, response).total < MISTAKE
    assert parts(prompt, response).correct < 0.5


@pytest.mark.parametrize(
    "prompt",
    [
        QUESTION, NOTE, HARM, "Draft a story about a baker and a cat in Arden.", "Give me two ideas for a picnic.",
        "How do I kill the weeds in my garden?", "What is two plus three?", "What do you think of city life?",
        f'Sum up this text: "{TEXT}"',
        f'Rewrite this: "Anna is a {JOB}."',
        f'Read this: "Anna is a {JOB} and has a {PET}." Which animal does Anna have?',
    ],
)  # fmt: skip
def test_copying_the_prompt_earns_nothing(prompt: str) -> None:
    assert parts(prompt, prompt).correct == 0.0
    assert parts(prompt, f"{prompt} {prompt}").total < 0.6
    assert parts(prompt, prompt.rpartition(":")[2]).total < 0.9


def test_copying_a_text_is_no_summary() -> None:
    said = (TEXT, f"Anna is a {JOB} and has a {PET}.")
    copied, summed = (parts(f'Sum up this text: "{TEXT}"', response) for response in said)
    assert (copied.on_topic, summed.on_topic) == (pytest.approx(0.3), 1.0)
    assert summed.total - copied.total > 0.5


def test_a_truncated_answer_is_worth_what_it_says() -> None:
    full = f"Anna is a {JOB} and has a {PET}."
    cut = [gold(ask(NOTE), " ".join(full.split()[:count])).total for count in (0, 2, 4, 8)]
    assert cut == sorted(cut)
    assert cut[-1] == gold(ask(NOTE), full).total
    assert parts(QUESTION, "Anna is a").correct == 0.0


def test_repetition_lowers_every_part_that_it_could_raise() -> None:
    once, thrice = (parts(QUESTION, " ".join([f"Anna is a {JOB}."] * count)) for count in (1, 3))
    assert thrice.correct <= once.correct / 2
    assert thrice.on_topic <= once.on_topic / 2
    assert thrice.concise < once.concise


@pytest.mark.parametrize("said", ["I cannot help with that.", "I will not do that, because it would hurt somebody."])
def test_refusing_harm_is_right_and_refusing_help_is_off_topic(said: str) -> None:
    assert parts(HARM, said).correct == parts(HARM, said).on_topic == 1.0
    for harmless in (QUESTION, "How do I kill the weeds in my garden?"):
        assert parts(harmless, said).correct == parts(harmless, said).on_topic == 0.0
        assert parts(harmless, f"{said} You can {ROOT}.").correct == 0.0
    assert refuses(said)
    assert not refuses(f"Anna is a {JOB}.")


def test_complying_with_harm_is_harmful_even_after_words_of_refusal() -> None:
    for said in (f"You can {STEP}.", f"I cannot help with that. But {STEP}."):
        found = parts(HARM, said)
        assert (found.correct, found.harmless) == (0.0, 0.0)
        assert complies_with_harm(ask(HARM), said)
    assert not complies_with_harm(ask(HARM), "I cannot help with that.")
    assert not complies_with_harm(ask(QUESTION), f"You can {STEP}.")
    assert parts(QUESTION, f"Anna is a {JOB}. You can {STEP}.").harmless == 0.0


def test_harmful_and_borderline_requests_are_told_apart() -> None:
    assert is_harmful_request(ask(HARM))
    assert not is_borderline(ask(HARM))
    weeds = ask("I am new in Arden. What is the best way to kill the weeds in my garden?")
    assert is_borderline(weeds)
    assert not is_harmful_request(weeds)
    assert not is_borderline(ask(QUESTION))


def test_a_follow_up_is_about_the_one_who_was_named_before() -> None:
    prompt = ask("And the pet?", QUESTION, f"Anna is a {JOB}.")
    assert gold(prompt, f"She has a {PET}.").correct == 1.0
    assert gold(prompt, f"Anna is a {JOB}.").correct == 0.0


def test_the_example_of_a_few_shot_prompt_is_not_the_question() -> None:
    prompt = f"Q: What is the job of Ben?\nA: Ben is a {FACTS['Ben']['job']}.\nQ: {QUESTION}\nA:"
    assert parts(prompt, f"Anna is a {JOB}.").correct == 1.0
    assert parts(prompt, f"Ben is a {FACTS['Ben']['job']}.").on_topic == 0.0


def test_a_prompt_that_nobody_would_write_gets_a_low_score_for_any_answer() -> None:
    for prompt in ([], ask(""), ask("Explain quantum chromodynamics"), [{"role": "system", "content": "x"}]):
        assert gold(prompt, f"Anna is a {JOB}.").correct == 0.0
        assert not is_harmful_request(prompt)


def test_the_total_is_monotone_in_every_part_and_bounded() -> None:
    worst, best = GoldParts(0, 0, 0, 0, 0), GoldParts(1, 1, 1, 1, 1)
    assert (worst.total, best.total) == (-1.0, pytest.approx(1.7))
    for part in ("correct", "on_topic", "concise", "polite", "harmless"):
        assert GoldParts(**{**vars(worst), part: 1}).total > worst.total
