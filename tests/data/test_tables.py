"""Rows that hold the same prompt hold one object, and what depends on a prompt is computed once for it."""

from pathlib import Path

import numpy as np

from rlhf.data.tables import of_each_object, read_table, write_rows

# Each differs from the others, and some are alike when lengths or missing texts are not looked at.
PROMPTS: list[list[tuple[str, str | None]]] = [
    [("user", "a")],
    [("user", "b")],
    [("user", None)],
    [("user", "-")],
    [("user", "")],
    [("a", "b:c")],
    [("a:b", "c")],
    [("user", "a"), ("user", "b")],
    [("user", "a1:u1:b")],
    [],
]


def test_equal_prompts_are_one_object(tmp_path: Path) -> None:
    messages = [[{"role": role, "content": text} for role, text in prompt] for prompt in PROMPTS]
    write_rows(tmp_path, "prompts", [{"prompt": prompt} for prompt in [*messages, None, *reversed(messages)]])
    read = read_table(tmp_path, "prompts")["prompt"].tolist()
    once, missing, again = read[: len(PROMPTS)], read[len(PROMPTS)], read[: len(PROMPTS) : -1]
    assert missing is None
    assert [list(prompt) for prompt in once] == messages
    assert all(one is other for one, other in zip(once, again, strict=True))
    assert len(set(map(id, once))) == len(PROMPTS)


def test_a_function_of_a_prompt_is_called_once_for_each(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "a"}]
    write_rows(tmp_path, "prompts", [{"prompt": prompt} for prompt in (message, [], message, [], message)])
    rows = read_table(tmp_path, "prompts").iloc[1:]
    called: list[int] = []
    found = of_each_object(lambda prompt: called.append(len(prompt)) or len(prompt), rows["prompt"])
    assert (sorted(called), found.tolist(), found.index.tolist()) == ([0, 1], [0, 1, 0, 1], [1, 2, 3, 4])
    assert found.dtype == np.int64
    texts = of_each_object(lambda prompt: f"{len(prompt)} messages", rows["prompt"]).tolist()
    assert texts == ["0 messages", "1 messages", "0 messages", "1 messages"]
    assert texts[0] is texts[2]
