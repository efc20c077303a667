"""How much of a test prompt was read in training, against a count by hand."""

import random
import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rlhf.data.contamination import RUN, seen, seen_shares
from rlhf.data.words import LARGE_TEXT, cleaned
from tests.data.frames import clean, user

WORDS = [f"w{place}" for place in range(40)]
LONG = " ".join(WORDS[:20])


def shares(prompt: str, *texts: str) -> float:
    return float(seen_shares(pa.array([prompt]), [pa.array(texts, pa.string())])[0])


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (LONG, 1.0),
        (f"Before it: {LONG.upper().replace(' ', ', ')}! And after.", 1.0),
        (" ".join(WORDS[:13]), 13 / 20),
        (" ".join(WORDS[3:17]), 14 / 20),
        (" ".join(WORDS[:12]), 0.0),
        (" ".join([*WORDS[:10], "x", *WORDS[10:20]]), 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_words_in_runs_of_thirteen(text: str, share: float) -> None:
    assert shares(LONG, text) == pytest.approx(share)


def test_another_form_of_unicode_is_the_same_text() -> None:
    text = "Où l'été a été passé, à Évreux ou près de là, l'élève a répété: « déjà vu »"
    assert shares(text, unicodedata.normalize("NFD", text)) == 1.0


def test_scripts_without_spaces_have_words_too() -> None:
    text = "請用三句話說明為什麼天空是藍色的並且舉出一個日常生活的例子"
    assert shares(text, f"前面還有別的話。{text}。後面也有。") == 1.0
    assert shares(text, text[:13] + "啊") == pytest.approx(13 / len(text))
    assert shares(text, text[:12]) == 0.0


def test_vowel_signs_are_part_of_their_word() -> None:
    hindi = "क्या आप मुझे दिन में दो बार यह बात समझा सकते हैं कि आकाश नीला क्यों है"
    assert cleaned(pa.array([hindi], LARGE_TEXT)).to_pylist() == [hindi]
    assert shares(hindi, hindi.replace("दिन", "दान").replace("समझा", "समझ")) == 0.0
    assert cleaned(pa.array(["Good \u2764\ufe0f day"], LARGE_TEXT)).to_pylist() == ["good day"], "an emoji is no word"


def test_a_run_lies_in_one_text() -> None:
    assert shares(LONG, " ".join(WORDS[:10]), " ".join(WORDS[10:20])) == 0.0
    assert shares(LONG, " ".join(WORDS[:13]), " ".join(WORDS[7:20])) == 1.0


def test_a_short_prompt_is_seen_where_a_text_is_the_same_words() -> None:
    assert shares("Why is it?", "why, is IT") == 1.0
    assert shares("Why is it?", "Tell me: why is it so") == 0.0


def test_shares_are_those_of_a_plain_count() -> None:
    draw = random.Random(0)
    source = [draw.choice("abcd") for _ in range(400)]  # so few words that runs of them come again

    def texts(count: int) -> list[list[str]]:
        starts = [draw.randrange(380) for _ in range(count)]
        return [source[start : start + draw.randrange(1, 40)] for start in starts]

    prompts, trained_on = texts(60), [*texts(20), [draw.choice("abcd") for _ in range(3000)]]

    def runs(words: list[str]) -> list[tuple[str, ...]]:
        return [tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)]

    known, whole = {run for text in trained_on for run in runs(text)}, {tuple(text) for text in trained_on}
    expected = []
    for words in prompts:
        covered = {place + step for place, run in enumerate(runs(words)) if run in known for step in range(RUN)}
        expected.append(len(covered) / len(words) if len(words) >= RUN else float(tuple(words) in whole))
    assert 0.1 < np.mean(expected) < 0.9
    arrays = [pa.array([" ".join(text) for text in some]) for some in (trained_on[:7], trained_on[7:])]
    found = seen_shares(pa.array([" ".join(words) for words in prompts]), arrays)
    np.testing.assert_allclose(found, expected)


def prompts(*rows: tuple[str, str]) -> pd.DataFrame:
    return clean("prompts", *({"prompt": user(text)} for text, _ in rows)).assign(split=[split for _, split in rows])


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("demonstrations", {"response": f"You ask: {LONG}"}),
        ("comparisons", {"chosen": "No.", "rejected": LONG}),
        ("rankings", {"responses": ["No.", LONG], "ranks": [1, 2]}),
        ("thumbs", {"response": LONG, "thumb": True}),
        ("texts", {"text": LONG}),
    ],
)
def test_what_models_are_trained_on_counts_outside_the_test_split(table: str, row: dict[str, Any]) -> None:
    asked = prompts((LONG, "test"), ("Why?", "test"), (LONG, "train"))
    assert seen({"prompts": asked}).tolist() == [1.0, 0.0, 0.0], "a prompt that a test prompt repeats"
    asked = asked[:2]
    for split, share in (("train", 1.0), ("validation", 1.0), ("test", 0.0)):
        tables = {"prompts": asked, table: clean(table, row, split=split)}
        assert seen(tables).tolist() == [share, 0.0], split
