"""Ids and splits stay when rows are added; no prompt is in two splits."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.config.data import SplitShares
from rlhf.data.ids import add_ids, lot, opening_hash, prompt_hash
from rlhf.data.prompts import all_prompts, split_keys, with_hashes
from rlhf.data.splits import SPLITS, is_for_referee, split_of
from rlhf.errors import DataError
from tests.data.frames import user

SHARES = SplitShares(train=0.8, validation=0.1, test=0.1)


def test_conversations_that_open_alike_are_in_one_split() -> None:
    asked, told = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
    alone, later = [asked], [asked, told, {"role": "user", "content": "And then?"}]
    assert opening_hash(later) == opening_hash(alone) == prompt_hash(alone) != prompt_hash(later)
    system = {"role": "system", "content": "Be brief."}
    other = [system, {"role": "user", "content": "How?"}]
    assert opening_hash([system, *alone]) == opening_hash(alone) != opening_hash(other)
    assert opening_hash([told]) == prompt_hash([told])
    rows = with_hashes(pd.DataFrame({"prompt": [alone, later, [system, *alone]]}))
    assert split_keys(rows).tolist() == [opening_hash(prompt) for prompt in rows["prompt"]]


def test_plain_texts_alone_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"holds a prompt, but texts alone\. Add a source of prompts, demonstrations, "):
        all_prompts({"texts": with_hashes(pd.DataFrame({"text": ["One."]}))})


def test_the_hash_is_the_same_in_every_process_and_release() -> None:
    """A changed hash would move every prompt of every workspace to another split."""
    assert prompt_hash(user("Why is the sky blue?"))[:16] == "0c5f70887097729b"


def test_prompts_that_differ_in_writing_only_are_the_same() -> None:
    composed, decomposed = user("Caf\u00e9  au\n lait "), user(" Cafe\u0301 au lait")
    assert prompt_hash(composed) == prompt_hash(decomposed)


def test_roles_and_message_borders_count() -> None:
    assert prompt_hash(user("a", "b", "c")) != prompt_hash(user("a b c"))
    assert prompt_hash([{"role": "system", "content": "a"}]) != prompt_hash(user("a"))
    assert prompt_hash(user("a")) != prompt_hash(user("A"))


def test_shares_come_out() -> None:
    splits = [split_of(prompt_hash(user(str(n))), SHARES) for n in range(20_000)]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert abs(shares[0] - 0.8) < 0.01
    assert abs(shares[1] - 0.1) < 0.01
    assert abs(shares[2] - 0.1) < 0.01


def test_lots_know_nothing_of_the_split_as_ids_do() -> None:
    """A prompt of one message is dealt to a split by the hash that its id is: by id, the test split begins with every
    prompt of several."""
    prompts = [user(str(n), *later) for n in range(10_000) for later in ([], ["Then?", "Now?"][: 2 * (n % 2)])]
    test = [prompt for prompt in prompts if split_of(opening_hash(prompt), SHARES) == "test"]
    share = sum(len(prompt) > 1 for prompt in test) / len(test)

    def first(key: Callable[[list[dict[str, str]]], str]) -> float:
        return sum(len(prompt) > 1 for prompt in sorted(test, key=key)[:400]) / 400

    assert first(prompt_hash) == 1.0
    assert abs(first(lambda prompt: lot(prompt_hash(prompt)[:16], "evaluate")) - share) < 0.06
    assert lot("a", "evaluate") != lot("a", "sample")


def test_the_referees_share_is_the_same_in_every_split_and_only_grows() -> None:
    digests = [prompt_hash(user(str(n))) for n in range(20_000)]
    for split in SPLITS:
        mine = [digest for digest in digests if split_of(digest, SHARES) == split]
        kept = {share: {digest for digest in mine if is_for_referee(digest, share)} for share in (0.3, 0.5)}
        assert abs(len(kept[0.3]) / len(mine) - 0.3) < 0.03, "the hash of the split says nothing of it"
        assert kept[0.3] < kept[0.5]


def test_the_ends_of_the_shares() -> None:
    first, last = "0" * 64, "f" * 64
    assert (split_of(first, SHARES), split_of(last, SHARES)) == ("train", "test")
    only = SplitShares(train=0.0, validation=1.0, test=0.0)
    assert (split_of(first, only), split_of("fff" + "0" * 61, only)) == ("validation", "validation")
    assert split_of(last, SplitShares(train=1.0, validation=0.0, test=0.0)) == "train"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "ann", "bob"])), max_size=8), st.integers(0, 8))
def test_a_row_keeps_its_id_when_others_come(contents: list[tuple[str, str]], place: int) -> None:
    def ids(entries: list[tuple[str, str]], source: str) -> list[str]:
        rows: list[dict[str, Any]] = [
            {"text": text, "annotator": who, "source": source, "row": n} for n, (text, who) in enumerate(entries)
        ]
        add_ids(rows)
        return [row["id"] for row in rows]

    before = ids(contents, "one")
    assert len(set(before)) == len(before)
    after = ids([*contents[:place], ("new", "eve"), *contents[place:]], "another")
    assert [name for n, name in enumerate(after) if n != min(place, len(contents))] == before


def test_another_criterion_is_another_judgement_and_none_named_is_overall() -> None:
    rows: list[dict[str, Any]] = [{"text": "a"}, *({"text": "a", "criterion": name} for name in ("overall", "helpful"))]
    for row in rows:
        add_ids([row])
    assert rows[0]["id"] == rows[1]["id"] != rows[2]["id"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("pq ", min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=6), st.integers(0, 5))
def test_a_split_is_the_prompts_alone(contents: list[str], place: int) -> None:
    """Neither the other rows of a table nor a row's place, answer or annotator move it."""

    def splits(said: list[str], **more: str) -> dict[str, str]:
        rows = with_hashes(pd.DataFrame({"prompt": [user(text) for text in said]}).assign(**more))
        return {text: split_of(key, SHARES) for text, key in zip(said, split_keys(rows), strict=True)}

    before = splits(contents)
    after = splits([*contents[place:], "new", *contents[:place]], annotator="eve", response="x")
    assert {text: after[text] for text in before} == before
    assert all(before[text] == split_of(prompt_hash(user(f" {text}\n")), SHARES) for text in contents)
