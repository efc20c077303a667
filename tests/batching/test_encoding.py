"""Tables as token ids: what many rows at once give is what each would give alone, and it lies in flat arrays."""

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.batching import encoding
from rlhf.batching.batches import pad, pad_rankings
from rlhf.batching.encoding import Turn, Turns, encode_prompt, encode_turns
from rlhf.batching.ragged import Ragged
from rlhf.batching.rankings import Rankings, encode_rankings
from rlhf.models.cached import cached
from tests.algorithms.tiny import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = ["", " ", "naïve 日本 🎉", "<|end|>", "a" * 300, *WORDS]


def rows(count: int) -> list[dict[str, Any]]:
    random, made = Random(0), []
    for _ in range(count):
        answers = [" ".join(random.choices(TEXTS, k=random.randint(1, 3))) for _ in range(random.randint(1, 4))]
        prompt = [{"role": "user", "content": random.choice(TEXTS), "name": "x"} for _ in range(random.randint(1, 3))]
        made.append({"prompt": prompt, "responses": answers, "ranks": [random.randint(1, 3) for _ in answers]})
    return made


def alone(text: str) -> list[int]:
    return [*TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], TOKENIZER.eos_token_id]


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_AT_ONCE", 7)


def test_turns_are_those_of_each_row_alone() -> None:
    table = [row | {"response": row["responses"][0]} for row in rows(30)]
    turns = encode_turns(TOKENIZER, table)
    expected = [(encode_prompt(TOKENIZER, row["prompt"]), alone(row["response"])) for row in table]
    assert [(turn.prompt.tolist(), turn.response.tolist()) for turn in turns] == expected
    limits = SimpleNamespace(prompt=20, response=30)
    kept = [(p, r) for p, r in expected if len(p) <= 20 and len(r) <= 30]
    assert 0 < len(kept) < 30
    assert [(t.prompt.tolist(), t.response.tolist()) for t in turns.where(turns.fit(limits))] == kept


def test_rankings_lose_what_is_too_long_and_are_left_out_below_two() -> None:
    table, limits, expected, too_long = rows(60), SimpleNamespace(prompt=20, response=30), [], 0
    for row in table:
        prompt = encode_prompt(TOKENIZER, row["prompt"])
        answers = [(alone(text), rank) for text, rank in zip(row["responses"], row["ranks"], strict=True)]
        kept = [(ids, rank) for ids, rank in answers if len(prompt) <= 20 and len(ids) <= 30]
        too_long += len(answers) - len(kept)
        if len(kept) >= 2:
            expected.append((prompt, kept))
    rankings, _, counted = encode_rankings(TOKENIZER, table, limits)
    found = [
        (g.answers[0].prompt.tolist(), [(t.response.tolist(), r) for t, r in zip(g.answers, g.ranks, strict=True)])
        for g in rankings
    ]
    assert 0 < len(expected) < 60
    assert (found, counted) == (expected, too_long)
    assert len(encode_rankings(TOKENIZER, [], limits)[0]) == 0


def test_batches_of_views_are_those_of_lists_and_come_from_the_file(tmp_path: Path) -> None:
    made, _, _ = encode_rankings(TOKENIZER, rows(12), SimpleNamespace(prompt=400, response=400))
    mapped = Rankings.of(cached(tmp_path / "rankings.safetensors", made.arrays))
    lists = [[Turn(t.prompt.tolist(), t.response.tolist(), t.given) for t in group.answers] for group in made]
    ours, theirs = pad_rankings(mapped[:]).sequences, pad([turn for turns in lists for turn in turns])
    for name in ("ids", "attention", "mask", "starts", "prompts"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.ids.dtype == torch.int64
    assert all(np.shares_memory(turn.response, mapped.answers.flat) for group in mapped for turn in group.answers)


def test_rows_are_counted_as_those_of_a_list() -> None:
    table = [[1, 2], [], [3]]
    ragged = Ragged.of(iter(table))
    assert [row.tolist() for row in ragged] == table
    assert ragged[-1].tolist() == [3]
    assert [row.tolist() for row in ragged[1:]] == table[1:]
    assert ragged.flat.dtype == np.int32
    with pytest.raises(IndexError):
        ragged[3]
    assert len(Turns(ragged, ragged).where(np.array([True, False, True]))) == 2
